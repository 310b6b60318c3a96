"""JSON-RPC messages: bytes to a frozen `Message`, strictly, and back (JSON-RPC 2.0; MCP base protocol).

What goes upstream is `encode_message` of the parsed message, so the upstream reads what was decided on. A member that
some peers would take for another (`Method`, `meta`, `request_state`) is refused: the Go and Python SDKs read several
spellings of one name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
import rfc8785

from twogate.core import strict_json
from twogate.core.errors import FACES, ErrorCode, GateError

MAX_BODY: Final = 4 * 1024 * 1024
MAX_ANSWER: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_ID: Final = 256
MAX_SEALED_ID: Final = 4096
"""Characters in the id of a client's response: that of a server's request, sealed with the server's session id."""
MAX_NAME: Final = 1024
MAX_BATCH: Final = 50
MAX_MEMBERS: Final = 256
"""Members that `params` and `params._meta` may have, and characters in the name of one."""
MAX_SAFE_INTEGER: Final = 2**53 - 1
"""RFC 7493 section 2.2: beyond it, peers that keep numbers as doubles would answer with another id."""

NAMED_METHODS: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
"""Methods and the `params` member that names what they act on; it is required."""

NOTIFICATION_PREFIX: Final = "notifications/"


class Kind(StrEnum):
    """What a message is, by the members it has."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


# Asked for on every call, and an enum's members are slow to reach in Python 3.11.
_REQUEST: Final = Kind.REQUEST
_NOTIFICATION: Final = Kind.NOTIFICATION
_RESPONSE: Final = Kind.RESPONSE


class Message(msgspec.Struct, frozen=True):
    """One JSON-RPC message. `params` is empty when absent; `payload` is a response's `result` or `error` object.

    A `canonical` one is written in RFC 8785 form, byte by byte as somebody signed for it (`core.operation`).
    """

    kind: Kind
    id: str | int | None
    method: str
    params: dict[str, Any]
    payload: Any = None
    is_error: bool = False
    canonical: bool = False


# Controls, and the invisible characters that break or reorder a line where a person reads the name.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")


@lru_cache(maxsize=4096)  # honest clients send the same few names; theirs are at most MAX_MEMBERS characters
def fold_name(name: str) -> str:
    """What every spelling has in common that some peer may take for this name of a member."""
    # Letter case as Unicode folds it, by way of upper case so that the dotless i meets i; compatibility forms; and
    # everything but letters and digits dropped, because pydantic peers take `request_state` for `requestState`.
    folded = unicodedata.normalize("NFKD", name.upper()).casefold()
    return _NOT_ALPHANUMERIC.sub("", "".join(c for c in folded if not unicodedata.combining(c)))


def reads_as(name: str, member: str) -> bool:
    """Whether some peer may take a member's name for another (see this module's introduction)."""
    return name == member or (len(name) <= MAX_MEMBERS and fold_name(name) == fold_name(member))


class _Members:
    """The names of an object's known members, and how to tell a disguised one."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)
        self._folded = frozenset(map(fold_name, names))

    def disguised(self, name: str) -> bool:
        return fold_name(name) in self._folded


_ENVELOPE: Final = _Members("jsonrpc", "id", "method", "params", "result", "error")
_ERROR: Final = _Members("code", "message", "data")
# Every member that some MCP version defines directly in a client's `params`.
_PARAMS: Final = _Members(
    *("name", "arguments", "uri", "_meta", "requestState", "inputResponses", "cursor", "protocolVersion"),
    *("capabilities", "clientInfo", "ref", "argument", "context", "level", "requestId", "reason", "progressToken"),
    *("progress", "total", "message", "taskId", "task", "notifications"),
)
_META: Final = _Members(
    *("progressToken", "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"),
    *("io.modelcontextprotocol/clientInfo", "io.modelcontextprotocol/logLevel"),
)
_METHOD: Final = re.compile(r"[!-~]{1,256}")
_ABSENT: Final = object()


def parse_message(raw: bytes, *, max_bytes: int = MAX_BODY) -> Message:
    """Read a client's one message, in this order: the JSON, the envelope, the id, the method, `params`.

    Raises:
        GateError: as `parse_body`; BATCH_NOT_SUPPORTED.
    """
    body = parse_body(raw, max_bytes=max_bytes)
    if isinstance(body, Message):
        return body
    raise GateError(ErrorCode.BATCH_NOT_SUPPORTED)


def parse_body(raw: bytes, *, max_bytes: int = MAX_BODY) -> Message | tuple[Message | GateError, ...]:
    """Read a client's body: one message, or a batch of them (JSON-RPC 2.0 section 6; MCP 2025-03-26 alone has it).

    A member of a batch that is no message stands in it as its error. Members may not share an id, because their
    answers could not be told apart.

    Raises:
        GateError: PARSE_ERROR, NOT_UTF8, BAD_NUMBER, TOO_DEEP, TOO_LARGE, DUPLICATE_KEY (see `strict_json.decode`);
            INVALID_REQUEST, UNKNOWN_MEMBER, CASE_CONFLICT, INVALID_PARAMS.
    """
    value = strict_json.decode(raw, max_bytes=max_bytes, max_depth=MAX_DEPTH)
    if not isinstance(value, list):
        return _parse_client(value)
    items = cast("list[object]", value)
    if not 0 < len(items) <= MAX_BATCH:
        raise GateError(ErrorCode.INVALID_REQUEST, f"a batch of {len(items)} messages, 1 to {MAX_BATCH} may be")
    members = tuple(map(_parse_member, items))
    # `1` and `1.0` cannot both come here, and True is no id, so equal ids are the same text.
    ids = [member.id for member in members if isinstance(member, Message) and member.kind is _REQUEST]
    if len(set(ids)) != len(ids):
        raise GateError(ErrorCode.INVALID_REQUEST, "two members of a batch have the same id")
    return members


def _parse_member(value: object) -> Message | GateError:
    try:
        return _parse_client(value)
    except GateError as error:
        return error


def _parse_client(value: object) -> Message:
    if not isinstance(value, dict):
        raise GateError(ErrorCode.INVALID_REQUEST, "the message is not an object")
    envelope = cast("dict[str, Any]", value)
    _check_members(envelope, _ENVELOPE)
    if envelope.get("jsonrpc") != "2.0":
        raise GateError(ErrorCode.INVALID_REQUEST, "jsonrpc is not 2.0")
    if "method" not in envelope:
        return _parse_response(envelope)
    method, identifier = _parse_call(envelope)
    # MCP has no method that may be sent either way; a `tools/call` without id must not run somewhere unanswered.
    if method.startswith(NOTIFICATION_PREFIX) != (identifier is None):
        raise GateError(ErrorCode.INVALID_REQUEST, "a notification with id, or another method without")
    params: Any = envelope.get("params", _ABSENT)
    if params is _ABSENT:
        params = {}
    _check_params(params)
    return Message(_NOTIFICATION if identifier is None else _REQUEST, identifier, method, params)


def parse_answer(raw: bytes, *, max_bytes: int = MAX_ANSWER) -> Message:
    """Read a server's message: a response, or a request or notification of its own.

    Unknown envelope members are dropped and the last of repeated ones counts, so pass on only the re-encoded message.
    An error response may lack an id (JSON-RPC 2.0 section 5: null when the request's could not be read).

    Raises:
        GateError: UPSTREAM_INVALID.
    """
    if len(raw) > max_bytes:
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"{len(raw)} bytes, {max_bytes} may be")
    try:
        value: Any = msgspec.json.decode(raw)
        strict_json.check_depth(raw, value, MAX_DEPTH)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, GateError) as error:
        raise GateError(ErrorCode.UPSTREAM_INVALID, f"unreadable JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the message is not an object")
    envelope = cast("dict[str, Any]", value)
    if envelope.get("jsonrpc") != "2.0":
        raise GateError(ErrorCode.UPSTREAM_INVALID, "jsonrpc is not 2.0")
    try:
        if "method" not in envelope:
            return _parse_response(envelope, server=True)
        method, identifier = _parse_call(envelope)
    except GateError as error:
        raise GateError(ErrorCode.UPSTREAM_INVALID, error.debug) from error
    params: Any = envelope.get("params") or {}
    if not isinstance(params, dict):
        raise GateError(ErrorCode.UPSTREAM_INVALID, "params are not an object")
    kind = _NOTIFICATION if identifier is None else _REQUEST
    return Message(kind, identifier, method, cast("dict[str, Any]", params))


def encode_message(message: Message) -> bytes:
    """The message as JSON, written anew from what was parsed; empty `params` are left out."""
    envelope: dict[str, Any] = {"jsonrpc": "2.0"}
    if message.kind is not _NOTIFICATION:
        envelope["id"] = message.id
    if message.kind is _RESPONSE:
        envelope["error" if message.is_error else "result"] = message.payload
    else:
        envelope["method"] = message.method
        if message.params:
            envelope["params"] = message.params
    return rfc8785.dumps(envelope) if message.canonical else strict_json.encode(envelope)


def encode_result(identifier: str | int, result: Mapping[str, Any]) -> bytes:
    """A response of our own with a result."""
    return strict_json.encode({"jsonrpc": "2.0", "id": identifier, "result": result})


def encode_error(identifier: str | int | None, code: ErrorCode, data: Mapping[str, object] | None = None) -> bytes:
    """A response of our own with an error: what `FACES` lets the caller know of the reason, and `data`."""
    face = FACES[code]
    error = {"code": face.jsonrpc, "message": face.text, "data": {"reason": face.reason, **(data or {})}}
    return strict_json.encode({"jsonrpc": "2.0", "id": identifier, "error": error})


def check_name(value: object, what: str) -> str:
    """Return a tool's, prompt's or resource's name (or URI) if it is a short, visible, non-empty string.

    Raises:
        GateError: INVALID_PARAMS.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or _UNPRINTABLE.search(value):
        raise GateError(ErrorCode.INVALID_PARAMS, f"{what} is not a string of 1 to {MAX_NAME} visible characters")
    return value


def _check_members(value: dict[str, Any], known: _Members, unknown: ErrorCode = ErrorCode.UNKNOWN_MEMBER) -> None:
    # A closed object: no other members at all.
    for name in value:
        if name not in known.names:
            disguised = len(name) <= MAX_MEMBERS and known.disguised(name)
            raise GateError(ErrorCode.CASE_CONFLICT if disguised else unknown)


def _check_disguises(value: dict[str, Any], known: _Members, what: str) -> None:
    # An open object: other members pass, unless a peer could take them for a known one.
    if len(value) > MAX_MEMBERS:
        raise GateError(ErrorCode.INVALID_PARAMS, f"{what} has more than {MAX_MEMBERS} members")
    for name in value:
        if name in known.names:
            continue
        if len(name) > MAX_MEMBERS:
            raise GateError(ErrorCode.INVALID_PARAMS, f"{what} has a member with a name over {MAX_MEMBERS} characters")
        if known.disguised(name):
            raise GateError(ErrorCode.CASE_CONFLICT, f"in {what}")


def _parse_call(envelope: dict[str, Any]) -> tuple[str, str | int | None]:
    if "result" in envelope or "error" in envelope:
        raise GateError(ErrorCode.INVALID_REQUEST, "a method together with a result or error")
    method: object = envelope["method"]
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise GateError(ErrorCode.INVALID_REQUEST, "the method is not 1 to 256 visible ASCII characters")
    return method, _identifier(envelope["id"]) if "id" in envelope else None


def _identifier(value: object, longest: int = MAX_ID) -> str | int:
    if isinstance(value, str) and len(value) <= longest:
        return value
    # bool is a subclass of int.
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > MAX_SAFE_INTEGER:
            raise GateError(ErrorCode.BAD_NUMBER, "the id is beyond 2^53-1")
        return value
    raise GateError(ErrorCode.INVALID_REQUEST, f"the id is not an integer or a string of at most {longest} characters")


def _check_params(params: object) -> None:
    if not isinstance(params, dict):
        raise GateError(ErrorCode.INVALID_PARAMS, "params are not an object")
    members = cast("dict[str, Any]", params)
    _check_disguises(members, _PARAMS, "params")
    for name in ("_meta", "arguments"):
        if not isinstance(members.get(name, members), dict):
            raise GateError(ErrorCode.INVALID_PARAMS, f"params.{name} is not an object")
    if "_meta" in members:
        _check_disguises(members["_meta"], _META, "params._meta")


def _parse_response(envelope: dict[str, Any], *, server: bool = False) -> Message:
    is_error = "error" in envelope
    if is_error == ("result" in envelope):
        raise GateError(ErrorCode.INVALID_REQUEST, "neither or both of result and error")
    if not server and "params" in envelope:
        raise GateError(ErrorCode.INVALID_REQUEST, "a response with params")
    payload: Any = envelope["error" if is_error else "result"]
    if not isinstance(payload, dict):
        raise GateError(ErrorCode.INVALID_REQUEST, "the result or error is not an object")
    body = cast("dict[str, Any]", payload)
    if is_error:
        if not server:
            _check_members(body, _ERROR)
        code = body.get("code")
        if not isinstance(code, int) or isinstance(code, bool) or not isinstance(body.get("message"), str):
            raise GateError(ErrorCode.INVALID_REQUEST, "an error without integer code and string message")
    identifier: Any = envelope.get("id")
    if not (server and is_error and identifier is None):
        identifier = _identifier(identifier, MAX_ID if server else MAX_SEALED_ID)
    return Message(_RESPONSE, identifier, "", {}, body, is_error)
