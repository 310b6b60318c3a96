"""What the demo is made of: acts, and the steps that they play."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One thing that somebody tried. `expected` says whether Twogate did what it must.

    `gate` is the gate that decided (one, two), or "-" where neither had anything to decide.
    """

    name: str
    gate: str
    decision: str
    why: str
    expected: bool


class Act(msgspec.Struct, frozen=True):
    """Steps that show one thing. `play` plays them in order; each builds on those before it."""

    title: str
    about: str
    play: Callable[[], AsyncGenerator[Step]]
