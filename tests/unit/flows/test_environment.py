"""Names that are drawn at random."""

from __future__ import annotations

import re

from twogate.flows.environment import random_name


class Drawn:
    """Gives what it was told to give, in that order."""

    def __init__(self, *values: bytes) -> None:
        self._values = list(values)

    def token(self, size: int) -> bytes:
        assert size == len(self._values[0])
        return self._values.pop(0)


def test_a_name_is_drawn_again_if_a_command_line_would_take_it_for_an_option() -> None:
    assert random_name(Drawn(b"\xf8\x00\x00", b"\xfb\xff\xff", b"\x00\xf8\x00"), 3) == "APgA"


def test_a_name_is_base64url_without_padding() -> None:
    name = random_name(Drawn(bytes(range(240, 256))[:16]), 16)
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", name)
