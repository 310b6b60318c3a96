"""What explaining a call finds out of pins: what was approved, what the server shows now, whether arguments fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from twogate.core import strict_json
from twogate.core.access import Policy
from twogate.core.conditions import Kind, kind_of, name_of
from twogate.core.errors import GateError
from twogate.core.message import MAX_ANSWER, MAX_DEPTH
from twogate.core.schema_cost import TooCostlyError
from twogate.core.schema_reader import SchemaError
from twogate.flows.gateway.arguments import BUDGET, Compile
from twogate.flows.gateway.pins import Pin

_SCHEMA_AT: Final = "inputSchema"


class Showing(StrEnum):
    """How what a server shows of a target agrees with what was approved of it."""

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    UNASKED = "unasked"
    FAILED = "failed"


class Fit(StrEnum):
    """Whether a call's arguments agree with the schema that was approved."""

    VALID = "valid"
    INVALID = "invalid"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


class PinFinding(msgspec.Struct, frozen=True):
    """What was found out of one target; `why` tells of a failure. `kind` is None if nothing classifies it."""

    kind: Kind | None
    pin: Pin | None = None
    showing: Showing = Showing.UNASKED
    why: str = ""
    fit: Fit = Fit.UNKNOWN
    misfit: str = ""


class ApprovedPins(Protocol):
    """Where pins are kept; `flows.gateway.pins.PinStore`, as far as it matters here."""

    async def get(self, tenant: str, server: str, target: str) -> Pin | None:
        """One pin.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


Shows = Callable[[Kind, str], Awaitable[bytes | None]]
"""The digest of what the server shows under a tool's or prompt's name; None if it shows none.

Raises GateError if it cannot be asked.
"""


async def find_pin(
    store: ApprovedPins,
    policy: Policy,
    tenant: str,
    target: str,
    *,
    shows: Shows | None,
    compile_schema: Compile,
    arguments: dict[str, Any] | None,
) -> PinFinding:
    """Find out. `shows` is None if the server is not to be asked; `arguments` None if nothing was said of them.

    `policy` is the tenant's. Only what was approved is asked about.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    found = policy.classify(target)
    kind = None if found is None else kind_of(found.entry)
    pin = None
    if kind is not None and kind is not Kind.RESOURCE:
        pin = await store.get(tenant, target.partition(".")[0], target)
    if kind is None or pin is None:
        return PinFinding(kind)
    showing, why = Showing.UNASKED, ""
    if shows is not None:
        try:
            digest = await shows(kind, name_of(target, kind))
        except GateError as error:
            showing, why = Showing.FAILED, error.debug or error.face.text
        else:
            showing = Showing.GONE if digest is None else Showing.SAME if digest == pin.digest else Showing.CHANGED
    fit, misfit = (Fit.UNKNOWN, "")
    if kind is Kind.TOOL and arguments is not None:
        fit, misfit = _fit(pin, compile_schema, arguments)
    return PinFinding(kind, pin, showing, why, fit, misfit)


def _fit(pin: Pin, compile_schema: Compile, arguments: dict[str, Any]) -> tuple[Fit, str]:
    definition: dict[str, Any] = strict_json.decode(pin.definition, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
    try:
        compile_schema(definition.get(_SCHEMA_AT)).check(arguments, BUDGET)
    except SchemaError as error:
        return Fit.UNREADABLE, str(error)
    except TooCostlyError:
        return Fit.INVALID, "too large for the tool's schema to be checked in time"
    except GateError as error:
        return Fit.INVALID, error.debug
    return Fit.VALID, ""
