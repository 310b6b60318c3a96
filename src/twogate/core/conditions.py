"""What Cedar policies are asked about a call: who, what, with which arguments, when, from where (row R-35).

Pure. A call becomes a request in Cedar's JSON (docs.cedarpolicy.com, "Entities and context syntax"), whose types are
those of `SHAPE`; `config.policy_schema` makes the schema of it. Policies only ever forbid what `core.access.decide`
lets through.

Of the arguments a policy sees only those that the operator declared with a type. A value of another type is never
coerced and never left out: either would let a caller choose what a policy sees, so the call is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from twogate.core.entry import parse_entry
from twogate.core.message import fold_name
from twogate.core.principal import Principal
from twogate.core.session import Session

NAMESPACE: Final = "Twogate"
"""Of every type in a policy: `Twogate::Agent`, `Twogate::Action`, …"""

ANY_CALL: Final = "call"
"""The action group of every call; classes are groups in it, entries the actions themselves."""

MAX_TEXT: Final = 32_768
"""Characters that the declared arguments of one call may have together: what a policy looks through costs time."""

MAX_ITEMS: Final = 256
"""Members that a declared set may have."""

MAX_MEMBERS: Final = 256
"""Members that an object with declared arguments may have, declared or not."""

MAX_NAME: Final = 128
"""Characters that the name of such a member may have."""

_PROTOTYPE: Final = "__proto__"
_LEAST_LONG, _GREATEST_LONG = -(2**63), 2**63 - 1
_DECIMAL_PLACES: Final = 4  # Cedar's decimal is a 64-bit integer of ten-thousandths
_HOUR, _DAY = 3600, 86_400
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday; Monday is 0


class ArgumentType(StrEnum):
    """How an operator declares an argument that policies may look at."""

    BOOL = "bool"
    LONG = "long"
    STRING = "string"
    DECIMAL = "decimal"
    STRINGS = "set<string>"
    LONGS = "set<long>"


Declared = Mapping[str, "ArgumentType | Declared"]
"""The declared arguments of a target by name; an object's members are declared within it."""

NOTHING_DECLARED: Final[Declared] = MappingProxyType({})

URI: Final[Declared] = MappingProxyType({"uri": ArgumentType.STRING})
"""The one argument of every resource, which its target names."""


class Kind(StrEnum):
    """What a target is."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"


class Asked(msgspec.Struct, frozen=True):
    """One call of one target, classified by `entry`; what a policy is asked about. `now` is Unix seconds.

    `params` are the message's; of a call whose arguments are not known here (a task's poll, the rest of a stream) the
    policies that look at arguments are not asked: they were when the call began.
    """

    principal: Principal
    session: Session | None
    target: str
    entry: str
    method: str
    params: Mapping[str, Any]
    address: str
    now: int


class ArgumentRefusedError(ValueError):
    """A declared argument is not what it was declared to be. The text names it and never holds its value."""


def kind_of(entry: str) -> Kind:
    """What an entry classifies.

    Raises:
        ValueError: it is malformed.
    """
    parsed = parse_entry(entry)
    if parsed.pattern is not None:
        return Kind.RESOURCE
    return Kind.PROMPT if entry.startswith(f"{parsed.server}.prompt:") else Kind.TOOL


def name_of(target: str, kind: Kind) -> str:
    """The tool's or prompt's name or the resource's URI that a target stands for."""
    own = target.partition(".")[2]
    return own.removeprefix("tool:" if kind is Kind.TOOL else f"{kind}:")


def arguments_of(asked: Asked, kind: Kind) -> Mapping[str, Any] | None:
    """The arguments of a call as its server will read them; None if they are not known here.

    Raises:
        ArgumentRefusedError: a completion has another form than MCP's, in which servers might see other arguments.
    """
    if kind is Kind.RESOURCE:
        return {"uri": name_of(asked.target, kind)}
    match asked.method:
        case "tools/call" | "prompts/get":
            # Parsing saw to it that they are an object.
            return cast("Mapping[str, Any]", asked.params.get("arguments") or {})
        case "completion/complete":
            return _completed(asked.params)
        case _:
            return None


def _completed(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a completion says of its prompt's arguments: those chosen before, and the one being written."""
    # Closed objects: some servers would take `Name` for `name`, and complete what no policy saw.
    context = _closed(params.get("context", {}), "context", frozenset({"arguments"}))
    chosen = context.get("arguments", {})
    if not isinstance(chosen, dict):
        raise ArgumentRefusedError("the completion's context.arguments are no object")
    written = _closed(params.get("argument"), "argument", _WRITTEN)
    name: object = written.get("name")
    if len(written) < len(_WRITTEN) or not isinstance(name, str):
        raise ArgumentRefusedError("the completion's argument is without name or value")
    return {**cast("dict[str, Any]", chosen), name: written["value"]}


_WRITTEN: Final = frozenset({"name", "value"})


def _closed(value: object, what: str, names: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not cast("dict[str, Any]", value).keys() <= names:
        raise ArgumentRefusedError(f"the completion's {what} is no object of {', '.join(sorted(names))}")
    return cast("dict[str, Any]", value)


def read_arguments(declared: Declared, given: Mapping[str, Any]) -> dict[str, Any]:
    """The declared ones of the arguments that were given, in Cedar's JSON; absent ones stay absent.

    Raises:
        ArgumentRefusedError: one has another type, a number is out of range, there is too much text; or a member that
            was not declared has a name that a server could take for a declared one.
    """
    room = _Room()
    return _record(declared, given, "", room)


class _Room:
    """How much text may still come."""

    def __init__(self) -> None:
        self._left = MAX_TEXT

    def take(self, text: str, name: str) -> str:
        self._left -= len(text)
        if self._left < 0:
            raise ArgumentRefusedError(f"argument {name} is too long to be judged")
        return text


def _record(declared: Declared, given: Mapping[str, Any], place: str, room: _Room) -> dict[str, Any]:
    _check_names(declared, given, place)
    return {name: _value(kind, given[name], f"{place}{name}", room) for name, kind in declared.items() if name in given}


def _check_names(declared: Declared, given: Mapping[str, Any], place: str) -> None:
    # A server that takes `filePath` for `file_path` would run what no policy saw.
    where = f"in {place.removesuffix('.')}" if place else "of the call"
    if len(given) > MAX_MEMBERS:
        raise ArgumentRefusedError(f"the arguments {where} are more than {MAX_MEMBERS}")
    others = given.keys() - declared.keys()
    if not others:
        return
    if _PROTOTYPE in others:
        # Where JavaScript copies it with the rest, declared ones would be read from within it.
        raise ArgumentRefusedError(f"an argument {where} is {_PROTOTYPE}")
    folded = {fold_name(name): name for name in declared}
    for name in others:
        if len(name) > MAX_NAME:
            raise ArgumentRefusedError(f"an argument {where} has a name over {MAX_NAME} characters")
        if (meant := folded.get(fold_name(name))) is not None:
            raise ArgumentRefusedError(f"an argument {where} is another spelling of {place}{meant}")


def _value(kind: ArgumentType | Declared, value: object, name: str, room: _Room) -> object:
    if not isinstance(kind, ArgumentType):
        if not isinstance(value, dict):
            raise ArgumentRefusedError(f"argument {name} is not an object")
        return _record(kind, cast("dict[str, Any]", value), f"{name}.", room)
    match kind, value:
        case ArgumentType.BOOL, bool():
            return value
        case ArgumentType.LONG, int():
            return _long(value, name)
        case ArgumentType.STRING, str():
            return room.take(value, name)
        case ArgumentType.DECIMAL, int() | float():
            return _decimal(value, name)
        case ((ArgumentType.STRINGS | ArgumentType.LONGS), list()):
            items = cast("list[object]", value)
            if len(items) > MAX_ITEMS:
                raise ArgumentRefusedError(f"argument {name} has more than {MAX_ITEMS} members")
            item = ArgumentType.STRING if kind is ArgumentType.STRINGS else ArgumentType.LONG
            return [_value(item, one, name, room) for one in items]
        case _:
            raise ArgumentRefusedError(f"argument {name} is not a {kind}")


def _long(value: int, name: str) -> int:
    # bool is a subclass of int.
    if isinstance(value, bool) or not _LEAST_LONG <= value <= _GREATEST_LONG:
        raise ArgumentRefusedError(f"argument {name} is not a {ArgumentType.LONG}")
    return value


def _decimal(value: float, name: str) -> dict[str, Any]:
    # The shortest text of a float is what the server is sent, so it is the number that is judged.
    if isinstance(value, bool) or not isfinite(value):
        raise ArgumentRefusedError(f"argument {name} is not a {ArgumentType.DECIMAL}")
    units = Fraction(repr(value)) * 10**_DECIMAL_PLACES
    whole = units.numerator
    if units.denominator != 1 or not _LEAST_LONG <= whole <= _GREATEST_LONG:
        raise ArgumentRefusedError(f"argument {name} has more than {_DECIMAL_PLACES} decimal places or is too large")
    sign, digits = "-" if whole < 0 else "", f"{abs(whole):05d}"
    return _extension("decimal", f"{sign}{digits[:-_DECIMAL_PLACES]}.{digits[-_DECIMAL_PLACES:]}")


def address_of(text: str) -> str | None:
    """The address that policies see; None for a peer without one (a Unix socket).

    An IPv4 address is itself however it is written: as `::ffff:192.0.2.1` it would be in no IPv4 range (RFC 4291
    section 2.5.5.2).
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def uid(kind: str, identifier: str) -> dict[str, str]:
    """The name of an entity in Cedar's JSON."""
    return {"type": f"{NAMESPACE}::{kind}", "id": identifier}


def _reference(kind: str, identifier: str) -> dict[str, Any]:
    return {"__entity": uid(kind, identifier)}


def _extension(function: str, argument: str) -> dict[str, Any]:
    return {"__extn": {"fn": function, "arg": argument}}


# The types of what a policy sees, as `config.policy_schema` writes them down. `?` marks what may be missing.
SHAPE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "principal": {
            "tenant": "Tenant",
            "role": "Role",
            "issuer": "String",
            "method": "String",
            "groups": "Set<String>",
            "scopes": "Set<String>",
            "user?": {"issuer": "String", "subject": "String", "roles": "Set<Role>"},
        },
        "resource": {"kind": "String", "name": "String", "entry": "String"},
        "context": {
            "time": "datetime",
            "hour": "Long",
            "weekday": "Long",
            "address?": "ipaddr",
            "device": "Set<String>",
            "session": {"task": "String", "created": "datetime"},
        },
    }
)


def entities_of(asked: Asked, kind: Kind) -> list[dict[str, Any]]:
    """The principal and the target with their attributes, as `SHAPE` has them."""
    return [_principal(asked.principal), _target(asked, kind)]


def _principal(principal: Principal) -> dict[str, Any]:
    tenant, role = principal.tenant, principal.agent.role
    attributes: dict[str, Any] = {
        "tenant": _reference("Tenant", tenant),
        "role": _reference("Role", role),
        "issuer": principal.issuer,
        "method": principal.method.value,
        "groups": list(principal.groups),
        "scopes": sorted(principal.scopes),
    }
    if principal.user is not None:
        attributes["user"] = {
            "issuer": principal.user.issuer,
            "subject": principal.user.subject,
            "roles": [_reference("Role", name) for name in principal.user_roles],
        }
    return {
        "uid": uid("Agent", str(principal.agent.id)),
        "attrs": attributes,
        "parents": [uid("Tenant", tenant), uid("Role", role)],
    }


def _target(asked: Asked, kind: Kind) -> dict[str, Any]:
    return {
        "uid": uid("Target", asked.target),
        "attrs": {"kind": kind.value, "name": name_of(asked.target, kind), "entry": asked.entry},
        "parents": [uid("Server", asked.target.partition(".")[0])],
    }


CONTEXT: Final = frozenset({"time", "hour", "weekday", "address", "device", "session", "arguments"})
"""What a context may hold."""


def context_of(asked: Asked, arguments: Mapping[str, Any], wanted: frozenset[str] = CONTEXT) -> dict[str, Any]:
    """What else is known of the call, as `SHAPE` has it, with these declared `arguments`. Times are UTC.

    Only what is `wanted`: reading it costs Cedar more than judging it.
    """
    session, now = asked.session, asked.now
    context: dict[str, Any] = {}
    if "arguments" in wanted:
        context["arguments"] = arguments
    if "time" in wanted:
        context["time"] = _datetime(now)
    if "hour" in wanted:
        context["hour"] = now // _HOUR % 24
    if "weekday" in wanted:
        context["weekday"] = (now // _DAY + _EPOCH_WEEKDAY) % 7 + 1
    if "device" in wanted:
        context["device"] = sorted(asked.principal.posture)
    if "session" in wanted:
        # Without a session a call comes this far only while gate two is observed.
        context["session"] = {
            "task": "" if session is None else session.task,
            "created": _datetime(now if session is None else session.created_at),
        }
    if "address" in wanted and (address := address_of(asked.address)) is not None:
        context["address"] = _extension("ip", address)
    return context


@lru_cache(256)  # of few moments many calls are made
def _moment(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _datetime(moment: int) -> dict[str, Any]:
    return _extension("datetime", _moment(moment))
