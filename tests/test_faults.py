"""What was tried to break diffeo is told as it came, and a loss is not overlooked."""

import sys
import types

import pytest
from faults import __main__ as command
from faults.outcomes import BEGIN, END, Outcome, put_table, read, table, write

KEPT = Outcome("Pulling the plug", 1_000, 0, "nothing")
LOST = Outcome("Pulling the other plug", 2, 1, "a hair")


def test_outcomes_come_back_and_others_stay(tmp_path):
    write(tmp_path / "r.json", {"plug": [KEPT]})
    write(tmp_path / "r.json", {"other": [LOST]})
    assert read(tmp_path / "r.json") == {"plug": [KEPT], "other": [LOST]}


def test_the_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for results in ({"plug": [KEPT]}, {"plug": [KEPT, LOST]}):
        put_table(page, results)
        assert page.read_text() == f"before\n{BEGIN}\n\n{table(results)}\n\n{END}\nafter\n"
    assert (
        "| Pulling the plug | 1,000 | 0 | nothing | `python -m faults plug` |" in page.read_text()
    )


@pytest.mark.parametrize(
    ("rows", "status", "code"),
    [([KEPT], 0, 0), ([KEPT, LOST], 0, 1), ([], 0, 1), ([KEPT], 3, 1)],
)
def test_a_loss_a_silence_and_a_crash_are_told(monkeypatch, capfd, tmp_path, rows, status, code):
    (tmp_path / "faults").mkdir()
    script = "\n".join(
        [
            "from faults.outcomes import Outcome",
            "def attempt(folder, sample):",
            *(f"    yield Outcome({r.what!r}, {r.tries}, {r.lost}, {r.seen!r})" for r in rows),
            f"    if {status}: raise SystemExit({status})",
            "    yield from ()",
        ]
    )
    module = types.ModuleType("faults.training")
    exec(script, module.__dict__)
    monkeypatch.setitem(sys.modules, "faults.training", module)

    def apart(words, **_):
        assert words[1:] == ["-m", "faults", "--one", "training", "--sample"]
        try:
            done = command.main(words[3:])
        except SystemExit as stop:
            done = stop.code
        return types.SimpleNamespace(returncode=done, stdout=capfd.readouterr().out)

    monkeypatch.setattr(command.subprocess, "run", apart)
    assert command.main(["training", "--sample"]) == code
    said = capfd.readouterr().out
    for row in rows:
        assert f"{row.lost} lost of {row.tries:,}: {row.what}: {row.seen}" in said


def test_the_page_has_what_was_seen():
    results = read(command.RESULTS)
    assert tuple(results) == command.NAMES
    page = command.PAGE.read_text(encoding="utf-8")
    assert table(results) in page
