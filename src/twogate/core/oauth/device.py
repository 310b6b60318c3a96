"""Device authorization (RFC 8628): the codes, what their request is answered with, and the states of one.

A user code has 8 of 20 letters without vowels, as section 6.1 proposes: 34 bits, no words, nothing that is mistaken for
anything else. Guessing is limited where codes are entered; this many bits and that limit belong together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError

PAGE_PATH: Final = "/device"
"""Where a person enters the code: the `verification_uri`."""
DECISION_PATH: Final = "/device/decision"

INTERVAL: Final = 5
"""Seconds between two polls at first."""
SLOW_DOWN_STEP: Final = 5
"""Seconds that a poll that came too early adds ("the interval MUST be increased by 5 seconds", section 3.5)."""
POLL_LEEWAY: Final = 1
"""Seconds that a poll may be early: times are whole seconds, and networks are uneven."""
MAX_INTERVAL: Final = 120
"""Seconds that the interval grows to at most, so that an eager client can still finish within a code's life."""

ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
CODE_LENGTH: Final = 8
USER_CODE_BYTES: Final = 16
"""Random bytes that a user code is made of: so many more than it has bits that every code is as likely as another."""
DEVICE_CODE_BYTES: Final = 32
DEVICE_CODE_LENGTH: Final = 43
"""Characters of a device code: 32 bytes in base64url."""

_MAX_ENTERED: Final = 32
_GROUP: Final = 4


class DeviceState(StrEnum):
    """What became of a device code. A person decides once, and what was allowed is redeemed once."""

    PENDING = "pending"
    ALLOWED = "allowed"
    DENIED = "denied"
    REDEEMED = "redeemed"


TRANSITIONS: Final = {
    DeviceState.PENDING: frozenset({DeviceState.ALLOWED, DeviceState.DENIED}),
    DeviceState.ALLOWED: frozenset({DeviceState.REDEEMED}),
    DeviceState.DENIED: frozenset[DeviceState](),
    DeviceState.REDEEMED: frozenset[DeviceState](),
}
"""Every change there is. A code also ends by its time, in whatever state."""


class Polled(msgspec.Struct, frozen=True):
    """A poll of a code that nobody has decided on: what it is answered with, and the interval from now on."""

    code: ErrorCode
    interval: int


def make_user_code(raw: bytes) -> str:
    """The user code that random bytes make.

    Raises:
        ValueError: other than USER_CODE_BYTES bytes; fewer would make some codes likelier than others.
    """
    if len(raw) != USER_CODE_BYTES:
        raise ValueError(f"a user code is made of {USER_CODE_BYTES} random bytes")
    number = int.from_bytes(raw)
    letters: list[str] = []
    for _ in range(CODE_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return "".join(letters)


def show_user_code(code: str) -> str:
    """The code as people read it: `XXXX-XXXX`."""
    return f"{code[:_GROUP]}-{code[_GROUP:]}"


def parse_user_code(entered: str) -> str | None:
    """The code that a person means; None if it cannot be one.

    "It is RECOMMENDED that the authorization server … strip[s] dashes and other punctuation", and that case does not
    matter (section 6.1). Only dashes and blanks are stripped here: other letters are another code.
    """
    if len(entered) > _MAX_ENTERED or not entered.isascii():
        return None
    code = "".join(char for char in entered.upper() if char not in "- ")
    if len(code) != CODE_LENGTH or not set(code) <= set(ALPHABET):
        return None
    return code


def authorization_answer(
    public_url: str, device_code: str, user_code: str, lifetime: int, interval: int = INTERVAL
) -> dict[str, object]:
    """The answer of the device authorization endpoint (section 3.2); times in seconds."""
    page, shown = public_url + PAGE_PATH, show_user_code(user_code)
    return {
        "device_code": device_code,
        "user_code": shown,
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code={shown}",
        "expires_in": lifetime,
        "interval": interval,
    }


def judge_poll(polled_at: int, interval: int, now: int) -> Polled:
    """What a poll gets while nobody has decided (section 3.5); `polled_at` is the last one, 0 if this is the first."""
    if now < polled_at + interval - POLL_LEEWAY:
        return Polled(ErrorCode.SLOW_DOWN, min(interval + SLOW_DOWN_STEP, MAX_INTERVAL))
    return Polled(ErrorCode.AUTHORIZATION_PENDING, interval)


def verify_change(before: DeviceState, after: DeviceState) -> None:
    """Check that a code may go from one state to another.

    Raises:
        GateError: ACCESS_DENIED after a person said no; GRANT_INVALID for every other change that does not exist.
    """
    if after in TRANSITIONS[before]:
        return
    if before is DeviceState.DENIED:
        raise GateError(ErrorCode.ACCESS_DENIED, "the person said no")
    raise GateError(ErrorCode.GRANT_INVALID, f"the device code is {before.value}")
