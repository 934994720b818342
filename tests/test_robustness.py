"""The robustness run reports what it saw, and overlooks no broken promise."""

import os
import sys
import types

import pytest
from robustness import __main__ as command
from robustness.promises import BEGIN, END, Observation, Promise, Row, put_table, read, table, write

HELD = Row("Pulling the plug", "nothing is lost", 1_000, 0, "sparks 1,000")
BROKEN = Row("Pulling the other plug", "nothing is lost", 2, 1, "smoke 2")


def test_rows_come_back_and_those_of_other_groups_stay(tmp_path):
    write(tmp_path / "r.json", {"plug": [HELD]})
    write(tmp_path / "r.json", {"other": [BROKEN]})
    assert read(tmp_path / "r.json") == {"plug": [HELD], "other": [BROKEN]}


def test_the_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for results in ({"plug": [HELD]}, {"plug": [HELD, BROKEN]}):
        put_table(page, results)
        assert page.read_text() == f"before\n{BEGIN}\n\n{table(results)}\n\n{END}\nafter\n"
    line = "| Pulling the plug | nothing is lost | 1,000 | 0 | sparks 1,000 | `plug` |"
    assert line in page.read_text().splitlines()


def observe(attempt):
    if isinstance(attempt, Exception):
        raise attempt
    if attempt == "crash":
        os._exit(0)
    return attempt


HOLDS = Observation("sparks")
BREAKS = Observation({"smoke": 3}, ["it burns"])


@pytest.mark.parametrize(
    ("attempts", "status", "message"),
    [
        ([HOLDS, HOLDS], 0, "0 broken of 2: a: sparks 2"),
        ([HOLDS, BREAKS], 1, "1 broken of 4: a: smoke 3, sparks 1"),
        ([HOLDS, ValueError("of the check")], 1, "1 broken of 2"),
        ([], 1, "1 broken of 1: a: no attempt was made"),
        ([HOLDS, "crash"], 1, "The group fake itself"),
    ],
)
def test_a_broken_promise_a_failed_check_and_a_crash_end_in_status_1(
    monkeypatch, capfd, attempts, status, message
):
    group = types.ModuleType("robustness.fake")
    group.PROMISES = [Promise("a", "b", lambda folder, sample: attempts, observe, workers=1)]
    monkeypatch.setitem(sys.modules, "robustness.fake", group)
    monkeypatch.setattr(command, "GROUPS", ("fake",))
    monkeypatch.setattr(command, "warm_up", lambda: None)
    assert command.main(["fake", "--sample"]) == status
    out, err = capfd.readouterr()
    assert message in out
    assert "it burns" in err or BREAKS not in attempts


def test_the_page_has_what_was_seen():
    results = read(command.RESULTS)
    assert tuple(results) == command.GROUPS
    assert table(results) in command.PAGE.read_text(encoding="utf-8")
