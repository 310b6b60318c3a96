"""People as the authorization server's flows see them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from twogate.core.approval import Duty


class User(msgspec.Struct, frozen=True):
    """A person of one tenant. `subject` is the random, never reused name that tokens carry as `sub`.

    `name` is what the person logs in with, unique within the tenant. `roles` are the person's own, by an operator;
    `groups` come from an operator or, at each login, from the identity provider. `provider` is the issuer of the
    upstream provider that the person comes from, None for one who logs in here. `duties` say what they may do here as
    people, given by an operator; `roles` what agents may do for them.
    """

    tenant: str
    subject: str
    name: str
    display_name: str = ""
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    disabled: bool = False
    provider: str | None = None
    created_at: int = 0
    duties: tuple[Duty, ...] = ()

    @property
    def label(self) -> str:
        """How pages call the person."""
        return self.display_name or self.name


class People(Protocol):
    """Finds people."""

    async def user(self, tenant: str, subject: str) -> User | None:
        """A person as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...
