"""Asking a server what it has, as a client of its own: never with a caller's credential, state or session.

Modern first, then the handshake (MCP 2026-07-28, "Backward Compatibility"): `server/discover` tells the eras apart, as
the official SDK's client does it. Whatever an answer of the probe is that does not come from a modern server falls
back; what only says that nothing can be had now (401, 5xx, no connection) does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeVar, cast

import msgspec

from twogate import __version__
from twogate.core import errors
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, Kind, Message, encode_message, parse_answer
from twogate.core.principal import PrincipalKey
from twogate.core.protocol import HANDSHAKE_VERSIONS, MODERN_VERSIONS
from twogate.core.sse import SseParser
from twogate.flows.gateway.headers import upstream_headers
from twogate.flows.gateway.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION
from twogate.flows.gateway.tool_list import Era, ToolList, take_entries, take_page, take_prompts
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest

MAX_PAGES: Final = 1000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all answers to one asking; each of them may have `MAX_ANSWER`."""
MAX_CURSOR: Final = 4096

FETCH_SECONDS: Final = 30.0
"""How long one asking may take, from the first message to the last."""
PROBE_SECONDS: Final = 10.0
"""How long a server may take to say that it is a modern one; old stdio servers may say nothing at all."""
FAREWELL_SECONDS: Final = 2.0

INLINE_BYTES: Final = 64 * 1024
"""Answers longer than this are read in a thread, so that a server with thousands of tools delays nobody's call."""

OWNER: Final = ":catalogue"
"""The agent in whose name the gateway itself asks. No registered agent can have it: `AgentKey` knows no colon."""

_CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"
_TWOGATE: Final = {"name": "twogate", "version": __version__}
_OK: Final = 200
_REFUSED: Final = (401, 403)
_CLIENT_ERRORS: Final = range(400, 500)
# What can go wrong with a server that does not understand the probe.
_NOT_UNDERSTOOD: Final = frozenset({ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_BROKEN, ErrorCode.UPSTREAM_INVALID})

TOOLS: Final = "tools"
PROMPTS: Final = "prompts"
"""What lists are called: the member of the result, the capability, and the beginning of the method."""

Take = Callable[[object, MutableMapping[str, Any]], None]
"""Reads one page's entries into what the pages before it brought."""

T = TypeVar("T")
Params = ParamSpec("Params")


def owner_of(tenant: str) -> PrincipalKey:
    """Whose state at a server the asking is: nobody's but the tenant's catalogue.

    The issuer is empty, and no configured issuer is, so that no caller can ever share a connection or process with it.
    """
    return PrincipalKey(tenant, "", OWNER, None)


class Offer(msgspec.Struct, frozen=True):
    """Everything that a server shows of itself, as it says it. `instructions` is None if it gives none."""

    tools: Mapping[str, Mapping[str, Any]]
    prompts: Mapping[str, Mapping[str, Any]]
    instructions: object = None


async def fetch_tools(upstream: Upstream, tenant: str, silence: float, era: Era | None = None) -> ToolList:
    """Ask a server for all its tools, in the tenant's name. `era` is what was learned the last time.

    `silence` is how many seconds it may say nothing.

    Raises:
        GateError: UPSTREAM_UNAVAILABLE, UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID.
    """
    asking = _Asking(upstream, owner_of(tenant), silence, {TOOLS: take_page})
    era = await _asked(asking, era)
    return ToolList(asking.found[TOOLS], asking.lifetime, era)


async def fetch_prompts(upstream: Upstream, tenant: str, silence: float, era: Era | None = None) -> ToolList:
    """As `fetch_tools`, of its prompts.

    Raises:
        GateError: as `fetch_tools`.
    """
    asking = _Asking(upstream, owner_of(tenant), silence, {PROMPTS: take_prompts})
    era = await _asked(asking, era)
    return ToolList(asking.found[PROMPTS], asking.lifetime, era)


async def fetch_offer(upstream: Upstream, tenant: str, silence: float) -> Offer:
    """Ask a server for all that can be pinned of it, in the tenant's name.

    Raises:
        GateError: as `fetch_tools`.
    """
    asking = _Asking(upstream, owner_of(tenant), silence, {TOOLS: take_entries, PROMPTS: take_entries})
    await _asked(asking, None)
    return Offer(asking.found[TOOLS], asking.found[PROMPTS], asking.instructions)


async def _asked(asking: _Asking, era: Era | None) -> Era | None:
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            if era is not None:
                with suppress(_OtherEra):
                    return await (asking.modern() if era is Era.MODERN else asking.handshake(era))
            return await _probed(asking)
    except TimeoutError:
        raise GateError(ErrorCode.UPSTREAM_TIMEOUT, f"no complete list in {FETCH_SECONDS:.0f} s") from None
    except _OtherEra as error:
        raise GateError(ErrorCode.UPSTREAM_INVALID, str(error)) from error


async def _probed(asking: _Asking) -> Era | None:
    remembered: Era | None = Era.HANDSHAKE
    try:
        modern = await asking.is_modern()
    except GateError as error:
        if error.code not in _NOT_UNDERSTOOD:
            raise
        # It may have been slow only, so it is asked again the next time.
        modern, remembered = False, None
    return await (asking.modern() if modern else asking.handshake(remembered))


class _OtherEra(Exception):  # noqa: N818 - not a failure but a finding
    """The server answered as one that does not speak the version it was spoken to in."""


class _Asking:
    """One conversation with a server, about the lists that are `wanted`.

    After it `found` has the entries of each by name. `lifetime` is how many seconds the server vouches for all of them.
    """

    def __init__(self, upstream: Upstream, owner: PrincipalKey, silence: float, wanted: Mapping[str, Take]) -> None:
        self._upstream = upstream
        self._owner = owner
        self._silence = silence
        self._wanted = wanted
        self._capabilities: object = None
        self.found: Mapping[str, dict[str, Any]] = MappingProxyType({})
        self.lifetime: float | None = None
        self.instructions: object = None
        self._last_id = 0
        self._bytes = 0
        self._large = False

    async def is_modern(self) -> bool:
        """Whether the server says that it speaks a modern version that is known here.

        Raises:
            GateError: as `fetch_tools`; UPSTREAM_UNAVAILABLE if it speaks no version that is known here.
        """
        answer = await self._request(
            "server/discover", {}, MODERN_VERSIONS[-1], None, silence=min(self._silence, PROBE_SECONDS)
        )
        if answer is None:
            return False
        payload = cast("dict[str, Any]", answer.payload)
        if not answer.is_error:
            self._introduced(payload)
            return _names_any(payload.get("supportedVersions"), MODERN_VERSIONS)
        if payload["code"] == errors.UNSUPPORTED_PROTOCOL_VERSION:
            data: object = payload.get("data")
            supported = cast("dict[str, Any]", data).get("supported") if isinstance(data, dict) else None
            if isinstance(supported, list) and not _names_any(cast("object", supported), HANDSHAKE_VERSIONS):
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "the server speaks no version that is known here")
        return False

    async def modern(self) -> Era:
        """All pages of all that is wanted, each request with its envelope (MCP 2026-07-28).

        Raises:
            GateError, _OtherEra
        """
        await self._lists(MODERN_VERSIONS[-1], None)
        return Era.MODERN

    async def handshake(self, remembered: Era | None) -> Era | None:
        """All pages of all that is wanted, within a session of its own, which is ended at once (MCP up to 2025-11-25).

        Raises:
            GateError, _OtherEra
        """
        hello = {"protocolVersion": HANDSHAKE_VERSIONS[-1], "capabilities": {}, "clientInfo": _TWOGATE}
        message = self._message("initialize", hello)
        answer = await self._send(message, HANDSHAKE_VERSIONS[-1], None)
        session = answer.session_id
        version = HANDSHAKE_VERSIONS[-1]
        try:
            welcome = await self._response(message, answer)
            chosen: object = None
            if welcome is not None and not welcome.is_error:
                chosen = welcome.payload.get("protocolVersion")
            if not isinstance(chosen, str) or chosen not in HANDSHAKE_VERSIONS:
                raise _OtherEra("the server answered neither server/discover nor initialize as MCP has it")
            version = chosen
            if welcome is not None:
                self._introduced(welcome.payload)
            await self._notify("notifications/initialized", version, session)
            await self._lists(version, session)
            return remembered
        finally:
            if session is not None:
                await self._farewell(version, session)

    def _introduced(self, payload: dict[str, Any]) -> None:
        self.instructions, self._capabilities = payload.get("instructions"), payload.get("capabilities")

    async def _lists(self, version: str, session: str | None) -> None:
        # Begun anew each time: what was found in the wrong era is forgotten.
        self.lifetime = None
        self.found = {key: await self._pages(key, version, session) for key in self._wanted}

    async def _pages(self, key: str, version: str, session: str | None) -> dict[str, Any]:
        method, found = f"{key}/list", dict[str, Any]()
        params: dict[str, Any] = {}
        promised = self._capabilities
        if key != TOOLS and isinstance(promised, dict) and key not in cast("dict[str, Any]", promised):
            return found  # many servers answer with an error of any code
        for _ in range(MAX_PAGES):
            answer = await self._request(method, params, version, session)
            if answer is None or answer.is_error:
                code = None if answer is None else answer.payload["code"]
                if code == errors.METHOD_NOT_FOUND and not found:
                    return found  # a server without any
                raise _OtherEra(f"{method} was answered with {'no JSON-RPC' if code is None else f'error {code}'}")
            result = cast("dict[str, Any]", answer.payload)
            if result.get("resultType", "complete") != "complete":
                raise GateError(ErrorCode.UPSTREAM_INVALID, f"the result of {method} is not complete")
            await self._apart(self._wanted[key], result.get(key), found)
            self.lifetime = _shorter(self.lifetime, result.get("ttlMs"))
            cursor: object = result.get("nextCursor")
            if cursor is None or cursor == "":
                return found
            if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR or params.get("cursor") == cursor:
                raise GateError(ErrorCode.UPSTREAM_INVALID, "nextCursor is no text, too long, or the last one again")
            params = {"cursor": cursor}
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"more than {MAX_PAGES} pages of {key}")

    async def _request(
        self, method: str, params: Mapping[str, Any], version: str, session: str | None, *, silence: float | None = None
    ) -> Message | None:
        message = self._message(method, params, version)
        return await self._response(message, await self._send(message, version, session, silence))

    def _message(self, method: str, params: Mapping[str, Any], version: str = "") -> Message:
        self._last_id += 1
        given = dict(params)
        if version in MODERN_VERSIONS:
            given["_meta"] = {PROTOCOL_VERSION: version, CLIENT_CAPABILITIES: {}, _CLIENT_INFO: _TWOGATE}
        return Message(Kind.REQUEST, self._last_id, method, given)

    async def _send(
        self, message: Message | None, version: str, session: str | None, silence: float | None = None
    ) -> UpstreamAnswer:
        return await self._upstream.send(
            UpstreamRequest(
                owner=self._owner,
                http_method="POST" if message is not None else "DELETE",
                headers=upstream_headers(message, version, session),
                body=b"" if message is None else encode_message(message),
                message=message,
                modern=version in MODERN_VERSIONS,
                timeout=self._silence if silence is None else silence,
                session=session,
            )
        )

    async def _notify(self, method: str, version: str, session: str | None) -> None:
        answer = await self._send(Message(Kind.NOTIFICATION, None, method, {}), version, session)
        await answer.aclose()

    async def _farewell(self, version: str, session: str) -> None:
        # Only good manners: a server that does not take it forgets the session by itself.
        with suppress(GateError, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                answer = await self._send(None, version, session)
                await answer.aclose()

    async def _response(self, message: Message, answer: UpstreamAnswer) -> Message | None:
        """The response to a request; None for a refusal (4xx) that is no JSON-RPC."""
        try:
            status = answer.status
            if status in _REFUSED:
                raise GateError(
                    ErrorCode.UPSTREAM_UNAVAILABLE, f"status {status} to {message.method}: it wants a credential"
                )
            if status != _OK and status not in _CLIENT_ERRORS:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"status {status} to {message.method}")
            try:
                response = await self._read(message, answer)
            except GateError as error:
                if status == _OK or error.code is not ErrorCode.UPSTREAM_INVALID:
                    raise
                return None
            return response if status == _OK or response.is_error else None
        finally:
            await answer.aclose()

    async def _read(self, message: Message, answer: UpstreamAnswer) -> Message:
        if answer.content_type == "application/json":
            pieces: list[bytes] = []
            async for chunk in answer.chunks():
                self._count(chunk)
                pieces.append(chunk)
            return _answering(await self._parsed(b"".join(pieces)), message)
        if answer.content_type != "text/event-stream":
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"type {answer.content_type!r}")
        parser = SseParser(MAX_ANSWER)
        async for chunk in answer.chunks():
            self._count(chunk)
            for event in parser.feed(chunk):
                if event.data:
                    found = await self._parsed(event.data)
                    # Nothing that it tells or asks meanwhile concerns an asking.
                    if found.kind is Kind.RESPONSE:
                        return _answering(found, message)
        raise GateError(ErrorCode.UPSTREAM_BROKEN, "the stream ended before the response")

    def _count(self, chunk: bytes) -> None:
        self._bytes += len(chunk)
        if self._bytes > MAX_BYTES:
            raise GateError(ErrorCode.UPSTREAM_INVALID, f"answers of more than {MAX_BYTES} bytes")

    async def _parsed(self, raw: bytes) -> Message:
        self._large = len(raw) > INLINE_BYTES
        return await self._apart(parse_answer, raw)

    async def _apart(self, work: Callable[Params, T], *args: Params.args, **kwargs: Params.kwargs) -> T:
        """Do what takes long for a large answer, in a thread then."""
        return await asyncio.to_thread(work, *args, **kwargs) if self._large else work(*args, **kwargs)


def _answering(response: Message, request: Message) -> Message:
    # An error may lack the id (JSON-RPC 2.0 section 5).
    missing = response.id is None and response.is_error
    if response.kind is not Kind.RESPONSE or not (missing or response.id == request.id):
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"no response to {request.method}")
    return response


def _names_any(given: object, versions: tuple[str, ...]) -> bool:
    return isinstance(given, list) and any(version in cast("list[object]", given) for version in versions)


def _shorter(lifetime: float | None, ttl_ms: object) -> float | None:
    # `bool` is a subclass of int. Without ttlMs (versions up to 2025-11-25) nothing was promised.
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int | float):
        return lifetime
    seconds = max(0.0, ttl_ms / 1000)
    return seconds if lifetime is None else min(lifetime, seconds)
