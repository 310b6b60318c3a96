"""Who calls, for the code of a server that is guarded within its own process, and what it may ask of that caller.

from twogate.require import current, require_auth

@require_auth(scope="notes:write")
def save(text: str) -> None:
    log.info("saved for %s", current().agent)

Both gates have let the call in already. What is asked here can only narrow that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from twogate.adapters.upstream.stamp import Identity, Stamp, current_stamp, stamp_in

__all__ = ["Identity", "NotPermittedError", "current", "identity", "require_auth"]

P = ParamSpec("P")
R = TypeVar("R")

_TEXT: Final = "not permitted"


class NotPermittedError(PermissionError):
    """The call may not do this. The text tells a caller nothing; `reason` is for the server's own log."""

    def __init__(self, reason: str) -> None:
        super().__init__(_TEXT)
        self.reason = reason


class HasScope(Protocol):
    """A request of an ASGI framework: Starlette's, and those made after it."""

    @property
    def scope(self) -> Any: ...  # noqa: ANN401 - each framework has a type of its own for it


def current() -> Identity:
    """Who calls, for code that runs within a call.

    Raises:
        NotPermittedError: it runs within none: the request came around `twogate.asgi`, or is over.
    """
    return _identity(current_stamp())


def identity(request: HasScope | Mapping[str, Any]) -> Identity:
    """Who sent a request, given the request or its ASGI scope.

    Raises:
        NotPermittedError: it came around `twogate.asgi`, or is over.
    """
    scope = request if isinstance(request, Mapping) else request.scope
    return _identity(stamp_in(cast("Mapping[str, Any]", scope)))


def require_auth(
    *,
    scope: str | Collection[str] | None = None,
    role: str | Collection[str] | None = None,
    task: str | Collection[str] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function run only within a call whose caller has all of these.

    `scope`: every scope named, in the credential. `role`: one of these is the agent's role. `task`: one of these is
    the task in force. Without any it asks only for a call that came through both gates. The function keeps its
    signature, and stays asynchronous if it was. A refusal raises `NotPermittedError` before the function runs.

    Raises:
        ValueError: an empty name or list, which would allow nothing or everything.
        TypeError: what is decorated is no plain function, or was made a tool already and so would be called unguarded.
    """
    needed = _Needed(_names(scope, "scope"), _names(role, "role"), _names(task, "task"))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _refuse_undecorable(function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> object:
                needed.check(current())
                return await function(*args, **kwargs)

            return cast("Callable[P, R]", guarded)

        @functools.wraps(function)
        def guarded_now(*args: P.args, **kwargs: P.kwargs) -> R:
            needed.check(current())
            return function(*args, **kwargs)

        return cast("Callable[P, R]", guarded_now)

    return decorate


class _Needed(NamedTuple):
    scopes: frozenset[str] | None
    roles: frozenset[str] | None
    tasks: frozenset[str] | None

    def check(self, caller: Identity) -> None:
        who = f"{caller.tenant}/{caller.agent}"
        if self.scopes is not None and not self.scopes <= caller.scopes:
            raise NotPermittedError(f"{who} lacks a scope of {sorted(self.scopes)}")
        if self.roles is not None and caller.role not in self.roles:
            raise NotPermittedError(f"{who} has another role than {sorted(self.roles)}")
        if self.tasks is not None and caller.task not in self.tasks:
            raise NotPermittedError(f"{who} is in another task than {sorted(self.tasks)}")


def _refuse_undecorable(function: object) -> None:
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        raise TypeError("require_auth decorates functions; put it below the decorator that makes a tool of one")
    if hasattr(function, "__fastmcp__"):
        raise TypeError("this function is a tool already; put require_auth below the decorator that made it one")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("require_auth does not decorate generators: they run after the call that made them")


def _identity(stamp: Stamp | None) -> Identity:
    if stamp is None:
        raise NotPermittedError("no call of twogate.asgi's is under way here")
    if not stamp.live:
        raise NotPermittedError("the call is over")
    if stamp.identity is None:
        raise NotPermittedError("Twogate itself asks, for nobody")
    return stamp.identity


def _names(value: str | Collection[str] | None, what: str) -> frozenset[str] | None:
    if value is None:
        return None
    names = frozenset([value] if isinstance(value, str) else value)
    if not names or "" in names:
        raise ValueError(f"require_auth: {what} is empty")
    return names
