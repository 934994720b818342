"""What the tests of commands share."""

from diffeo.cli import main


def refused(arguments, capsys, *words):
    """The command ends with code 2 and one sentence on standard error with these words."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffeo: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for word in words:
        assert word in error
    return error
