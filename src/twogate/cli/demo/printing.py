"""How the demo is shown to people: act by act, each step as it was played."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Final

from twogate.cli.demo.step import Act, Step
from twogate.cli.output import print_text

_NARROWEST: Final = 24
_COLUMNS: Final = "{:>2}  {:<35}  {:<4}  {:<8}  "


def print_head() -> None:
    """What the columns are."""
    print_text("\n" + _COLUMNS.format("", "Step", "Gate", "Decision") + "Why")


def print_act(act: Act) -> None:
    """An act's title."""
    print_text(f"\n{act.title}")
    print_text(f"    {act.about}")
    sys.stdout.flush()


def print_step(number: int, step: Step) -> None:
    """One step; on a terminal, its reason is folded below itself."""
    head = _COLUMNS.format(number, step.name, step.gate, step.decision)
    why = step.why if step.expected else f"NOT as expected: {step.why}"
    if sys.stdout.isatty():
        room = max(_NARROWEST, shutil.get_terminal_size().columns - len(head))
        why = f"\n{' ' * len(head)}".join(textwrap.wrap(why, room, break_long_words=False, break_on_hyphens=False))
    print_text(f"{head}{why}".rstrip())
    sys.stdout.flush()
