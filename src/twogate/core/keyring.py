"""The states of a signing key, and what each allows (R-51).

    STAGED -> ENABLED -> DISABLED -> DELETED         a planned rotation
    STAGED -> DELETED, ENABLED -> DELETED            a key that must not be trusted any longer
    DISABLED -> ENABLED                              a rotation taken back

A key is published before it signs (STAGED), so that verifiers know it by then, and after it signed (DISABLED), until
the last token under it has expired. Everything that affects a key's state is in this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec


class KeyState(StrEnum):
    """Where a key is in its life."""

    STAGED = "staged"
    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


TRANSITIONS: Final[Mapping[KeyState, frozenset[KeyState]]] = MappingProxyType(
    {
        KeyState.STAGED: frozenset({KeyState.ENABLED, KeyState.DELETED}),
        KeyState.ENABLED: frozenset({KeyState.DISABLED, KeyState.DELETED}),
        KeyState.DISABLED: frozenset({KeyState.ENABLED, KeyState.DELETED}),
        KeyState.DELETED: frozenset(),
    }
)


class PublicKey(msgspec.Struct, frozen=True):
    """The public half of a key of ours: its JWK with `kid`, `use` and `alg`, and its state."""

    kid: str
    jwk: Mapping[str, str]
    state: KeyState


def change_state(key: PublicKey, state: KeyState) -> PublicKey:
    """The key in its new state.

    Raises:
        ValueError: the transition does not exist.
    """
    if state not in TRANSITIONS[key.state]:
        raise ValueError(f"a key that is {key.state.value} cannot become {state.value}")
    return msgspec.structs.replace(key, state=state)


def published(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """The keys that verifiers may still or already trust: every one that is not deleted."""
    return tuple(key for key in keys if key.state is not KeyState.DELETED)
