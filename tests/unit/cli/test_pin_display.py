"""What a person reads before approving a tool."""

from __future__ import annotations

from twogate.cli.pin_display import changes
from twogate.core.pins import definition_of


def test_a_change_of_one_kind_of_space_is_seen() -> None:
    before, after = ({"description": f"Look{space}here"} for space in (" ", "\u00a0"))
    lines = list(changes(definition_of(after), definition_of(before)))
    assert lines == ["  description", '    - "Look here"', '    + "Look[U+00A0]here"']
