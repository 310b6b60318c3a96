"""What commands print of strangers' texts stays within its line and its cell."""

from __future__ import annotations

import json

import pytest

from twogate.cli.output import one_line, print_json, print_table, printable, printable_json

FORGED = "real\n2 of 2 approvals hold.\x1b[2J\x9b1m\u202e\r"


def test_a_cell_begins_no_row_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("Tool", "State"), [(FORGED, "pending"), ("other", "granted")])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["Tool", "State"]
    assert first.endswith("pending")
    assert second.split() == ["other", "granted"]


def test_one_line_is_one_line_and_drives_no_terminal() -> None:
    assert "\n" not in one_line(FORGED)
    assert printable(one_line(FORGED)) == one_line(FORGED)
    assert not any(char in one_line(FORGED) for char in "\x1b\x9b\u202e\r")


def test_json_means_the_same_with_everything_that_drives_a_terminal_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"tool": FORGED, "\u2066key": "\U000e0041"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"tool": FORGED, "\u2066key": "\U000e0041"}
    assert all(char.isprintable() or char == "\n" for char in out)
    assert printable_json('"plain é"') == '"plain é"'
