"""Operation tokens: the digest of one call, the token that is bound to it, and the life of both (row R-33).

Pure. A token lets one call run once: this tool with these arguments, for this agent (and user) in this session
(DESIGN decisions 7 and 9). The digest is taken over RFC 8785 JSON, and what goes upstream is written in the same form,
so the bytes that were signed for are the bytes that run.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec
import rfc8785

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, time_at
from twogate.core.jose.jwt import MAX_TOKEN, parse_jwt, verify_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey
from twogate.core.jose.kind import media_type
from twogate.core.message import MAX_SAFE_INTEGER, Message
from twogate.core.principal import UserId

TYPE: Final = "op+jwt"
"""The token's `typ`. No other token of this server has it, and this one is never an access token."""

FORM: Final = "twogate-operation-v1"
"""Stands in every digested form, so that a digest of anything else is never one of a call."""

META: Final = "dev.twogate/operation-token"
"""The member of `_meta` in which a call may bring its token."""

HEADER: Final = "twogate-operation-token"
"""The HTTP header in which it may come instead; in lower case."""

DEFAULT_LIFETIME: Final = 120
"""Seconds that a token is good for unless the tool says otherwise."""

MAX_LIFETIME: Final = 900
"""Seconds that a tool may say at most."""

MAX_CALL: Final = 256 * 1024
"""Bytes that the parameters of a call with a token may have: somebody answers for what they say."""

MAX_VALUES: Final = 10_000
"""Values that they may hold, objects and lists counted too: each costs time to write in canonical form."""

LEEWAY: Final = 5
"""Seconds that the clocks of two replicas may differ when one checks what the other issued."""

# `_meta` says how a call travels, not what it does, and is cut to an allowlist. A `requestState` is a handle that this
# server sealed for one caller and one call: what it belongs to is compared by `base_digest`. What the target says
# already is not said twice.
_STATE: Final = "requestState"
_RESPONSES: Final = "inputResponses"
_TELLS_TASK: Final = "tasks/"
_NAMED_BY_TARGET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tools/call": "name",
        "prompts/get": "name",
        "resources/read": "uri",
        "resources/subscribe": "uri",
        "resources/unsubscribe": "uri",
    }
)
WITH_ARGUMENTS: Final = frozenset({"tools/call", "prompts/get"})
"""Methods whose `arguments` may be left out, and then mean none (MCP, server/tools and server/prompts)."""


class Digested(msgspec.Struct, frozen=True):
    """One call in the form that is signed for: the digest in lower-case hex, and the digested bytes."""

    digest: str
    form: bytes


def canonical(value: object) -> bytes:
    """A JSON value in RFC 8785 form.

    Every number with a magnitude beyond 2^53-1 is refused, however it is spelled: peers that keep integers apart from
    floats would read another one (RFC 7493 section 2.2).

    Raises:
        GateError: TOO_LARGE past `MAX_VALUES`; BAD_NUMBER; NOT_UTF8 for half a surrogate pair.
    """
    level: list[object] = [value]
    room = MAX_VALUES
    while level:
        item = level.pop()
        room -= 1
        if room < 0:
            raise GateError(ErrorCode.TOO_LARGE, f"a call that is signed for has at most {MAX_VALUES} values")
        if isinstance(item, dict):
            level.extend(cast("dict[str, object]", item).values())
        elif isinstance(item, list):
            level.extend(cast("list[object]", item))
        # Not "greater": that would let NaN pass.
        elif isinstance(item, int | float) and not abs(item) <= MAX_SAFE_INTEGER:
            raise GateError(ErrorCode.BAD_NUMBER, "a number beyond 2^53-1")
    try:
        return rfc8785.dumps(cast("Any", value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise GateError(ErrorCode.NOT_UTF8, "half a surrogate pair") from error


def canonical_message(message: Message) -> Message:
    """The message as it will be written: every value as its RFC 8785 form reads, and marked to be encoded so.

    `arguments` that are left out become none: the two mean the same.

    Raises:
        GateError: TOO_LARGE, BAD_NUMBER, NOT_UTF8.
    """
    params: dict[str, Any] = message.params
    if len(strict_json.encode(params)) > MAX_CALL:
        raise GateError(ErrorCode.TOO_LARGE, f"a call with an operation token has at most {MAX_CALL} bytes")
    if message.method in WITH_ARGUMENTS:
        params = {"arguments": dict[str, Any](), **params}
    read: dict[str, Any] = msgspec.json.decode(canonical(params))
    return msgspec.structs.replace(message, params=read, canonical=True)


def digest_call(method: str, target: str, params: Mapping[str, Any]) -> Digested:
    """The digest of a call of `target` (`server.tool`, …) by `method` with these `params` as they go upstream.

    Members of `params` that do not count are left out here: `_meta`, the `requestState`, and what names the target. A
    `taskId` counts, as the caller was given it.

    Raises:
        GateError: TOO_LARGE, BAD_NUMBER, NOT_UTF8.
    """
    left_out = {"_meta", _NAMED_BY_TARGET.get(method, "_meta")}
    if not method.startswith(_TELLS_TASK):
        # Of tasks it is no handle of ours.
        left_out.add(_STATE)
    counted = {name: value for name, value in params.items() if name not in left_out}
    if method in WITH_ARGUMENTS:
        counted.setdefault("arguments", {})
    form = canonical({"form": FORM, "method": method, "params": counted, "tool": target})
    return Digested(hashlib.sha256(form).hexdigest(), form)


def base_digest(method: str, target: str, params: Mapping[str, Any]) -> str:
    """The digest of a call without what was answered to its server: the same in every round of one call.

    Raises:
        GateError: TOO_LARGE, BAD_NUMBER, NOT_UTF8.
    """
    return digest_call(method, target, {name: value for name, value in params.items() if name != _RESPONSES}).digest


def default_method(target: str) -> str:
    """The method that a target is used by unless something else is said: call, get or read."""
    name = target.partition(".")[2]
    if name.startswith("resource:"):
        return "resources/read"
    return "prompts/get" if name.startswith("prompt:") else "tools/call"


class Bound(msgspec.Struct, frozen=True):
    """What a token is bound to: the resource that takes it, the caller, the session, the target and the digest."""

    audience: str
    tenant: str
    agent_issuer: str
    agent: str
    user: UserId | None
    session: str
    tool: str
    digest: str

    def differs(self, other: Bound) -> str | None:
        """The name of the first field in which another one differs, every field compared in constant time."""
        found: str | None = None
        for name, mine in self._texts.items():
            if not hmac.compare_digest(mine, other._texts[name]):
                found = found or name
        return found

    @property
    def _texts(self) -> dict[str, bytes]:
        user = b"" if self.user is None else msgspec.json.encode((self.user.issuer, self.user.subject))
        texts = {
            name: cast("str", getattr(self, name)).encode("utf-8", "surrogatepass")
            for name in ("audience", "tenant", "agent_issuer", "agent", "session", "tool", "digest")
        }
        return {**texts, "user": user}


class OperationToken(msgspec.Struct, frozen=True):
    """What a token says. Times are Unix seconds; `minter` is the client, or the person, who signed for the call."""

    issuer: str
    jti: str
    issued_at: int
    expires_at: int
    minter: str
    bound: Bound

    @property
    def claims(self) -> dict[str, object]:
        """The claims of the JWT. There is no `sub` and no `client_id`: it stands for a call, and for nobody."""
        bound = self.bound
        claims: dict[str, object] = {
            "iss": self.issuer,
            "aud": bound.audience,
            "iat": self.issued_at,
            "exp": self.expires_at,
            "jti": self.jti,
            "tenant": bound.tenant,
            "agent_issuer": bound.agent_issuer,
            "agent": bound.agent,
            "sid": bound.session,
            "tool": bound.tool,
            "digest": bound.digest,
            "minter": self.minter,
        }
        if bound.user is not None:
            claims["user"] = {"iss": bound.user.issuer, "sub": bound.user.subject}
        return claims


def read_operation_token(
    unverified: str, keys: Collection[VerificationKey], algorithms: frozenset[Algorithm], issuer: str
) -> OperationToken:
    """What a token says that this server signed as an operation token; whether it fits and is in time is not judged.

    1. it is well-formed, and its `typ` is op+jwt; 2. one of our own keys signed it; 3. `iss` is this server; 4. every
    claim is there.

    Raises:
        GateError: OPERATION_TOKEN_INVALID, whatever is wrong.
    """
    try:
        # 1.
        jwt = parse_jwt(unverified)
        if media_type(jwt.unverified_type) != TYPE:
            raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is not op+jwt")
        # 2.
        claims = verify_jwt(jwt, keys, algorithms).claims
        # 3.
        if claims.get("iss") != issuer:
            raise GateError(ErrorCode.ISSUER_UNKNOWN, "iss is another server")
        # 4.
        return _read_claims(claims, issuer)
    except GateError as error:
        raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, f"{error.code.value}: {error.debug}") from error


def _read_claims(claims: Mapping[str, Any], issuer: str) -> OperationToken:
    issued_at, expires_at = time_at(claims, "iat"), time_at(claims, "exp")
    if issued_at is None or expires_at is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "iat and exp are required")

    def required(pointer: str) -> str:
        value = string_at(claims, pointer)
        if value is None:
            raise GateError(ErrorCode.CLAIM_MISSING, f"{pointer} is required")
        return value

    user = None
    if "user" in claims:
        user = UserId(required("/user/iss"), required("/user/sub"))
    return OperationToken(
        issuer,
        required("/jti"),
        issued_at,
        expires_at,
        required("/minter"),
        Bound(
            audience=required("/aud"),
            tenant=required("/tenant"),
            agent_issuer=required("/agent_issuer"),
            agent=required("/agent"),
            user=user,
            session=required("/sid"),
            tool=required("/tool"),
            digest=required("/digest"),
        ),
    )


def presented_token(meta: Mapping[str, object], header: str | None) -> str | None:
    """The token that a call brings, in its `_meta` or in the header; None if it brings none.

    Both places may be used if they say the same.

    Raises:
        GateError: OPERATION_TOKEN_INVALID if they differ, or what is there is no text of a sensible length.
    """
    if META not in meta and header is None:
        return None
    token: object = meta.get(META, header)
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN or not token.isascii():
        raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, "not the text of a token")
    if header is not None and not hmac.compare_digest(token.encode(), header.encode("utf-8", "surrogatepass")):
        raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, "_meta and header bring different tokens")
    return token


class State(StrEnum):
    """Where a token's one use stands."""

    READY = "ready"
    """Not used, or its use was taken back before anything was sent."""
    STARTED = "started"
    """Its call is under way, or whoever ran it cannot say any more."""
    FINISHED = "finished"
    """Its call was sent, and it is known how that ended."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Whoever ran its call is gone: it may have run, and never will again."""


class Step(StrEnum):
    """What can happen to it."""

    START = "start"
    UNDO = "undo"
    FINISH = "finish"
    LOSE = "lose"


TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = MappingProxyType(
    {
        (State.READY, Step.START): State.STARTED,
        (State.STARTED, Step.UNDO): State.READY,
        (State.STARTED, Step.FINISH): State.FINISHED,
        (State.STARTED, Step.LOSE): State.OUTCOME_UNKNOWN,
        # It was given up too early, and whoever ran it knows better. Never back to READY: others were told otherwise.
        (State.OUTCOME_UNKNOWN, Step.FINISH): State.FINISHED,
    }
)
"""Every other pair is refused. Nothing but an undo by who started it leads back to READY."""
