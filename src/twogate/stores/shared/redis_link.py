"""The way to one Redis or Valkey server: connections, deadlines, and what to do while it is gone.

Every error of it becomes SHARED_UNAVAILABLE here. The library keeps no retries and no timers of its own: whatever is
asked has one deadline, so that a server which hangs holds up nobody for longer.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, cast

from redis import exceptions
from redis.asyncio import Connection, SSLConnection
from redis.credentials import CredentialProvider

from twogate.config.shared_url import SharedAddress
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock
from twogate.stores.password_file import read_password

CONNECTIONS: Final = 16
"""Commands of one process that may be under way at once; others wait for their turn."""

CONNECT_TIMEOUT: Final = 1.0
"""Seconds to connect and log in."""

COMMAND_TIMEOUT: Final = 0.5
"""Seconds to answer, and again to get a turn."""

PAUSE: Final = 0.2
"""Seconds after a failure in which nothing is tried; then one call tries, and the others follow if it succeeds."""

RECHECK: Final = 30.0
"""Seconds after which a connection asks again whether the server has begun to evict."""

MAX_WORDS: Final = 120

KEPT: Final = "noeviction"
"""The only `maxmemory-policy` under which nothing is forgotten before its time."""

# What an operator can do about what a server says.
_ADVICE: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.AuthenticationError, "it refuses the user or password of `shared` and `shared_password`"),
    (exceptions.NoPermissionError, "its user may not run a command, or use a key, that is needed"),
    (exceptions.OutOfMemoryError, "its memory is full"),
    (exceptions.ReadOnlyError, "it is a read-only replica; name the primary"),
    (exceptions.BusyLoadingError, "it is still loading its data"),
    (exceptions.MovedError, "it is a cluster; name a server that is not"),
)

_POLICY: Final = re.compile(rb"^maxmemory_policy:([a-z-]{1,32})\r?$", re.MULTILINE)
_RUN: Final = re.compile(rb"^run_id:([0-9a-f]{40})\r?$", re.MULTILINE)
_LOGS: Final = re.compile(rb"^aof_enabled:([01])\r?$", re.MULTILINE)


class Script:
    """A Lua script that the server keeps; it runs whole, and nothing else of any client runs meanwhile.

    With `told_life` its last argument is the server's life: another one after a restart or fail-over that may have put
    back a state of before, and empty if the server logs each write (`appendonly`), so that it puts none back.
    """

    def __init__(self, source: str, *, told_life: bool = False) -> None:
        self.source = source
        self.told_life = told_life
        # The name that the protocol gives it (EVALSHA).
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisLink:
    """Runs commands and scripts on one server, each on a connection of its own while it runs."""

    def __init__(
        self, address: SharedAddress, clock: Clock, *, password: Path | None = None, ca: Path | None = None
    ) -> None:
        """`password` is read for each connection, so it can be changed while the process runs.

        Raises:
            GateError: SHARED_UNAVAILABLE if the CA file cannot be used.
        """
        self._address = address
        self._clock = clock
        self._credentials = _Credentials(address.user, password)
        self._tls: ssl.SSLContext | None = None
        if address.tls:
            try:
                self._tls = ssl.create_default_context(cafile=ca)
            except OSError as error:
                raise _unavailable(f"shared_ca: {type(error).__name__}: {ca}") from error
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[_Open] = []
        self._closed = False
        self._failure = ""
        self._try_again = 0.0
        self._trying = False

    async def run(self, script: Script, keys: tuple[str, ...], *arguments: str | float) -> object:
        """What a script returns.

        Raises:
            GateError: SHARED_UNAVAILABLE. The script may have run or not.
        """
        rest = (len(keys), *keys, *arguments)

        async def work(opened: _Open) -> object:
            given = (*rest, opened.life) if script.told_life else rest
            try:
                return await opened.ask("EVALSHA", script.digest, *given)
            except exceptions.NoScriptError:
                # The first time, and after a restart of the server.
                return await opened.ask("EVAL", script.source, *given)

        return await self._do(work)

    async def check(self) -> None:
        """Ask whether the server is there and forgets nothing before its time.

        Raises:
            GateError: SHARED_UNAVAILABLE.
        """
        await self._do(_require_memory)

    async def aclose(self) -> None:
        """Let go of every connection, now or when what runs on it has ended."""
        self._closed = True
        await self._drop_idle()

    async def _do(self, work: Callable[[_Open], Awaitable[object]]) -> object:
        if self._failure and (self._trying or self._clock.monotonic() < self._try_again):
            raise _unavailable(f"{self._failure} (a moment ago; not tried again yet)")
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await self._turn.acquire()
        except TimeoutError as error:
            raise _unavailable(f"{self._address}: {CONNECTIONS} commands are under way already") from error
        tries = self._trying = bool(self._failure)
        try:
            result = await self._on_a_connection(work)
        except (exceptions.RedisError, GateError, OSError, ValueError) as error:
            # ValueError: what the library makes of some answers that are none.
            raise await self._failed(error) from error
        else:
            self._failure = ""
            return result
        finally:
            if tries:
                self._trying = False
            self._turn.release()

    async def _on_a_connection(self, work: Callable[[_Open], Awaitable[object]]) -> object:
        opened = await self._take()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                result = await work(opened)
        except exceptions.ResponseError:
            await self._give_back(opened)
            raise
        except BaseException:
            # An answer may still come, which must not become the answer to another's question.
            await opened.connection.disconnect(nowait=True)
            raise
        await self._give_back(opened)
        return result

    async def _take(self) -> _Open:
        while self._idle:
            # The one used last: the others may be long gone without our knowing.
            opened = self._idle.pop()
            if await opened.usable() and self._clock.monotonic() - opened.checked_at < RECHECK:
                return opened
            await opened.connection.disconnect(nowait=True)
        connection = self._new()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]  # the library leaves its type out
                opened = _Open(connection, self._clock.monotonic())
                await _require_memory(opened)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return opened

    async def _give_back(self, opened: _Open) -> None:
        if self._closed:
            await opened.connection.disconnect(nowait=True)
        else:
            self._idle.append(opened)

    def _new(self) -> Connection:
        address = self._address
        settings: dict[str, Any] = {
            "host": address.host,
            "port": address.port,
            "db": address.database,
            "credential_provider": self._credentials if self._credentials.any else None,
            "client_name": "twogate",
            "driver_info": None,
            # Ours are around everything.
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "protocol": 2,
        }
        if self._tls is None:
            return Connection(**settings)
        connection = SSLConnection(**settings)
        # Made once: the library would make one for each connection.
        connection.ssl_context.context = self._tls
        return connection

    async def _failed(self, error: Exception) -> GateError:
        if isinstance(error, exceptions.ResponseError):
            # It answers, and this is its answer.
            return _unavailable(f"{self._address}: {_words(error)}")
        self._failure = error.debug if isinstance(error, GateError) else f"{self._address}: {_words(error)}"
        self._try_again = self._clock.monotonic() + PAUSE
        await self._drop_idle()
        return _unavailable(self._failure)

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for opened in idle:
            await opened.connection.disconnect(nowait=True)


class _Credentials(CredentialProvider):
    def __init__(self, user: str, password: Path | None) -> None:
        self.any = password is not None
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        if self._password is None:
            raise ValueError("there is no password")
        password = read_password(self._password, ErrorCode.SHARED_UNAVAILABLE)
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


@dataclass
class _Open:
    """A connection that is logged in. `checked_at`: when the server said that it forgets nothing, and its `life`."""

    connection: Connection
    checked_at: float
    life: str = ""

    async def ask(self, *command: str | float) -> object:
        await self.connection.send_command(*command)
        return cast("object", await self.connection.read_response())

    async def usable(self) -> bool:
        """Whether it is open, with no answer on it that nobody waited for."""
        try:
            return self.connection.is_connected and not await self.connection.can_read()
        except (exceptions.ConnectionError, OSError):
            return False


async def _require_memory(opened: _Open) -> None:
    # Not CONFIG GET: operators of shared servers often forbid it.
    # All that it says by itself: several sections by name need Redis 7.
    answer = await opened.ask("INFO")
    said = answer if isinstance(answer, bytes) else b""
    match, run, logs = _POLICY.search(said), _RUN.search(said), _LOGS.search(said)
    if match is None or run is None or logs is None:
        raise _unavailable("the server does not say its maxmemory-policy, run_id and aof_enabled (INFO)")
    opened.life = "" if logs[1] == b"1" else run[1].decode("ascii")
    policy = match[1].decode("ascii")
    if policy != KEPT:
        raise _unavailable(f"the server may forget what was used already: set its maxmemory-policy to {KEPT}")


def _unavailable(words: str) -> GateError:
    return GateError(ErrorCode.SHARED_UNAVAILABLE, words)


def _words(error: Exception) -> str:
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return advice
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    text = "".join(char if char.isprintable() else " " for char in str(error))
    return f"{type(error).__name__}: {text[:MAX_WORDS]}"
