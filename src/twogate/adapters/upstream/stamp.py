"""The mark of a request that both gates let into a server within this process (library mode, DESIGN decision 16).

A stamp is an object in the request's ASGI scope, where nothing that comes over the network can put one. It counts while
its own request runs, and for the one message that was decided on. Copies count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, cast
from weakref import WeakSet

import msgspec

from twogate.core.message import NAMED_METHODS, Kind, Message

SCOPE_KEY: Final = "twogate.stamp"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and within what; what is not there is None.

    `agent` is the agent of `tenant`, with its `role`; `user_issuer` and `user` name the person behind it, of whom
    `user_roles` and `groups` are asserted. `scopes` are the credential's. `session` is the session of the declared
    `task`. `server` is this server's name in the configuration, `method` the MCP method, `target` what it acts on.
    """

    tenant: str
    agent: str
    role: str
    server: str
    method: str
    target: str = ""
    user_issuer: str | None = None
    user: str | None = None
    user_roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    session: str | None = None
    task: str | None = None


class Stamp:
    """One admitted request. `identity` is None where Twogate itself asks the server (for its list of tools)."""

    __slots__ = ("__weakref__", "_kind", "_method", "_params", "identity")

    def __init__(self, identity: Identity | None, message: Message | None) -> None:
        self.identity = identity
        self._method = "" if message is None else message.method
        self._kind = None if message is None else message.kind
        self._params: Mapping[str, Any] = {} if message is None else message.params

    @property
    def live(self) -> bool:
        """Whether its request runs."""
        return self in _live

    def covers(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Whether this message is the one that was let in; `params` None compares the method alone.

        Of methods that name a tool, prompt or resource the name and the arguments count, of others all but `_meta`.
        """
        if method != self._method:
            return False
        if params is None:
            return True
        ours, theirs = _decided_on(method, self._params), _decided_on(method, params)
        return same_json(ours, theirs)

    def redeem(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Whether this message may be taken up now.

        A request must still run. A notification is answered before a server takes it up, so it may come later, once.
        """
        if not self.covers(method, params):
            return False
        if self._kind is Kind.NOTIFICATION:
            unspent = self in _unspent
            _unspent.discard(self)
            return unspent
        return self in _live

    def end(self) -> None:
        """Its request is over; idempotent."""
        _live.discard(self)


_live: Final[WeakSet[Stamp]] = WeakSet()
_unspent: Final[WeakSet[Stamp]] = WeakSet()
_current: Final[ContextVar[Stamp | None]] = ContextVar("twogate_stamp", default=None)


def issue_stamp(identity: Identity | None, message: Message | None) -> Stamp:
    """A stamp that counts until its `end`."""
    stamp = Stamp(identity, message)
    _live.add(stamp)
    if message is not None and message.kind is Kind.NOTIFICATION:
        _unspent.add(stamp)
    return stamp


def stamp_in(scope: Mapping[str, Any]) -> Stamp | None:
    """The stamp in an ASGI scope; whether it is live, the caller asks."""
    stamp = scope.get(SCOPE_KEY)
    return stamp if type(stamp) is Stamp else None


def current_stamp() -> Stamp | None:
    """The stamp of the request that this code runs for, as far as context variables reach."""
    return _current.get()


def set_current(stamp: Stamp | None) -> None:
    """From here on, in this context, code runs for that request."""
    _current.set(stamp)


def _decided_on(method: str, params: Mapping[str, Any]) -> dict[str, object]:
    name = NAMED_METHODS.get(method)
    if name is None:
        return {key: value for key, value in params.items() if key != "_meta"}
    return {"name": params.get(name), "arguments": params.get("arguments") or {}}


def same_json(one: object, other: object) -> bool:
    """Whether two JSON values are the same; unlike `==`, which takes 1, 1.0 and True for equal. Depth is bounded."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[str, object]", one), cast("dict[str, object]", other)
        return left.keys() == right.keys() and all(same_json(value, right[key]) for key, value in left.items())
    if isinstance(one, list) and isinstance(other, list):
        items, others = cast("list[object]", one), cast("list[object]", other)
        return len(items) == len(others) and all(map(same_json, items, others))
    return one == other
