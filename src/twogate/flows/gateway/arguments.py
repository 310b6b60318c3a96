"""Schemas of arguments, compiled once for each pin, and the check of a call against them (row R-43)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, MAX_DEPTH
from twogate.core.schema_cost import TooCostlyError
from twogate.core.schema_reader import SchemaError
from twogate.flows.gateway.pins import PinBook

BUDGET: Final = 2_000_000
"""Units (`core.schema_cost`) of checking one call's arguments: about 50 ms, within which nobody else is served."""
INLINE: Final = 100_000
"""Units that may be counted where others wait."""

MAX_KEPT: Final = 1024
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all schemas that are kept, as JSON; compiled they take several times as much."""

UNTOLD: Final = "schema"
"""The keyword where no closer one is told."""
_FAILED_SIZE: Final = 200


class CompiledSchema(Protocol):
    """One schema, ready to check by."""

    @property
    def size(self) -> int:
        """Its bytes as JSON."""
        ...

    def check(self, arguments: object, budget: int) -> None:
        """Check a call's arguments.

        Raises:
            GateError: ARGUMENTS_INVALID.
            TooCostlyError: it would take more than `budget` units, so nothing was checked.
        """
        ...


Compile = Callable[[object], CompiledSchema]
"""Compiles an `inputSchema`. Raises SchemaError if nothing can be checked by it; the text says why."""


def invalid_arguments(path: str, keyword: str) -> GateError:
    """The refusal of arguments for what stands at a place (a JSON Pointer); never with a value."""
    where = f"at {path}" if path else "as a whole"
    return GateError(ErrorCode.ARGUMENTS_INVALID, f"{where}: {keyword}", data={"path": path, "keyword": keyword})


class ArgumentChecks:
    """Checks arguments against what was approved. One for the whole process."""

    def __init__(self, book: PinBook, compile_schema: Compile) -> None:
        self._book = book
        self._compile = compile_schema
        self._kept: OrderedDict[bytes, CompiledSchema | SchemaError] = OrderedDict()
        self._bytes = 0
        self._lock = asyncio.Lock()

    async def check(self, tenant: str, server: str, target: str, digest: bytes, arguments: object) -> None:
        """Check a call's arguments against the schema in the definition that was approved under this digest.

        Raises:
            GateError: ARGUMENTS_INVALID; TOOL_INVALID (nothing can be checked against this schema); TOOL_CHANGED
                (the approval was withdrawn in the meantime); STORE_UNAVAILABLE.
        """
        found = self._kept.get(digest)
        if found is None:
            async with self._lock:
                found = self._kept.get(digest)
                if found is None:
                    found = await self._compiled(tenant, server, target, digest)
        else:
            self._kept.move_to_end(digest)
        if isinstance(found, SchemaError):
            raise GateError(ErrorCode.TOOL_INVALID, f"its arguments cannot be checked: {found}")
        try:
            found.check(arguments, INLINE)
        except TooCostlyError:
            # So that counting it delays nobody; most of such a call's time is spent on that.
            try:
                await asyncio.to_thread(found.check, arguments, BUDGET)
            except TooCostlyError:
                raise GateError(
                    ErrorCode.ARGUMENTS_INVALID,
                    "too large for the tool's schema to be checked in time",
                    data={"path": "", "keyword": UNTOLD},
                ) from None

    async def _compiled(self, tenant: str, server: str, target: str, digest: bytes) -> CompiledSchema | SchemaError:
        definition = await self._book.definition(tenant, server, target, digest)
        tool: dict[str, Any] = strict_json.decode(definition, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
        made: CompiledSchema | SchemaError
        try:
            made = await asyncio.to_thread(self._compile, tool.get("inputSchema"))
        except SchemaError as error:
            made = error
        self._kept[digest] = made
        self._bytes += _size(made)
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)
        return made


def _size(kept: CompiledSchema | SchemaError) -> int:
    return _FAILED_SIZE if isinstance(kept, SchemaError) else kept.size
