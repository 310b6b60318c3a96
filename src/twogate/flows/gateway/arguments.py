"""Schemas of arguments, compiled once for each pin, and the check of a call against them (row R-43)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

from twogate.core import strict_json
from twogate.core.argument_schema import BUDGET, INLINE, ArgumentSchema, too_costly
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_ANSWER, MAX_DEPTH
from twogate.core.schema_cost import TooCostlyError
from twogate.core.schema_reader import SchemaError
from twogate.flows.gateway.pins import PinBook

MAX_KEPT: Final = 1024
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all schemas that are kept, as JSON; compiled they take several times as much."""

_FAILED_SIZE: Final = 200


class ArgumentChecks:
    """Checks arguments against what was approved. One for the whole process."""

    def __init__(self, book: PinBook) -> None:
        self._book = book
        self._kept: OrderedDict[bytes, ArgumentSchema | SchemaError] = OrderedDict()
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
                raise too_costly() from None

    async def _compiled(self, tenant: str, server: str, target: str, digest: bytes) -> ArgumentSchema | SchemaError:
        definition = await self._book.definition(tenant, server, target, digest)
        tool: dict[str, Any] = strict_json.decode(definition, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
        made: ArgumentSchema | SchemaError
        try:
            made = await asyncio.to_thread(ArgumentSchema, tool.get("inputSchema"))
        except SchemaError as error:
            made = error
        self._kept[digest] = made
        self._bytes += _size(made)
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)
        return made


def _size(kept: ArgumentSchema | SchemaError) -> int:
    return kept.size if isinstance(kept, ArgumentSchema) else _FAILED_SIZE
