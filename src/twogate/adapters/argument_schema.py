"""JSON Schema by the library jsonschema-rs; implements `flows.gateway.arguments.CompiledSchema` (row R-43).

The dialect is JSON Schema 2020-12 unless `$schema` names another. `format` is not asserted and no default is filled in:
what was checked is what the server gets. Nothing is fetched, whatever a schema refers to. Patterns run in linear time;
what that engine cannot do (look-around, backreferences) is refused with the schema.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from twogate.core.pins import definition_of
from twogate.core.schema_cost import SchemaCost
from twogate.core.schema_reader import SchemaError
from twogate.flows.gateway.arguments import UNTOLD, invalid_arguments

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

MAX_SCHEMA: Final = 256 * 1024
"""Bytes of a schema as JSON."""
MAX_PATTERN: Final = 2048
MAX_PATTERNS: Final = 256

MAX_EXPLAINED: Final = 20_000
"""Units up to which a schema with branches is asked where the error lies: it tells of every branch, at length."""
MAX_TOLD: Final = 100_000_000
"""Bytes that its telling may copy: at most the schema, for every subschema that failed."""

MAX_PATH: Final = 256
"""Characters of the JSON Pointer that names the place of an error."""

# How large a pattern's program may be, and what each character then costs at most, measured.
_SIZES: Final = ((20_000, 20), (100_000, 400), (1_000_000, 4000))
_LARGEST: Final = _SIZES[-1][0]
_CACHE_BYTES: Final = 1_000_000


class ArgumentSchema:
    """One schema, compiled."""

    def __init__(self, schema: object) -> None:
        """Compile a tool's `inputSchema`.

        Raises:
            SchemaError: nothing can be checked against it here; the text says why.
        """
        # 70 ms that only those wait for whose tools are approved.
        import jsonschema_rs  # noqa: PLC0415

        self.size = len(definition_of(schema))
        if not isinstance(schema, dict):
            raise SchemaError("the tool has no inputSchema that is an object")
        if self.size > MAX_SCHEMA:
            raise SchemaError(f"the schema has more than {MAX_SCHEMA} bytes")
        # Whatever it calls itself: under another name it could be taken for a schema that is known already.
        named = cast("dict[str, Any]", schema)
        schema = {name: value for name, value in named.items() if name not in ("$id", "id")}
        self._cost = SchemaCost(schema, _Patterns().cost)
        try:
            self._validator: Validator = jsonschema_rs.validator_for(
                schema,
                validate_formats=False,
                offline=True,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_LARGEST, dfa_size_limit=_CACHE_BYTES),
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            # Its first line; the rest repeats the schema.
            raise SchemaError(f"it is no valid schema: {str(error).partition(chr(10))[0][:200]}") from None

    def check(self, arguments: object, budget: int) -> None:
        """Check a call's arguments.

        Raises:
            GateError: ARGUMENTS_INVALID, with the place as a JSON Pointer and the keyword; never a value.
            TooCostlyError: it would take more than `budget`, so nothing was checked.
        """
        cost = self._cost.of(arguments, budget)
        if self._validator.is_valid(arguments):
            return
        path, keyword = "", UNTOLD
        if not self._cost.contextual or (cost <= MAX_EXPLAINED and cost * self.size <= MAX_TOLD):
            path, keyword = self._explained(arguments)
        raise invalid_arguments(path, keyword)

    def _explained(self, arguments: object) -> tuple[str, str]:
        from jsonschema_rs import ValidationError  # noqa: PLC0415

        try:
            self._validator.validate(arguments)
        except ValidationError as error:
            return _pointer(error), error.kind.name
        return "", UNTOLD


def _pointer(error: ValidationError) -> str:
    # RFC 6901. Whole members only: half a name would name another place.
    pointer = ""
    for part in error.instance_path:
        longer = f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"
        if len(longer) > MAX_PATH:
            break
        pointer = longer
    return pointer


class _Patterns:
    """What the patterns of one schema cost."""

    def __init__(self) -> None:
        self._count = 0

    def cost(self, pattern: str) -> int:
        self._count += 1
        if self._count > MAX_PATTERNS:
            raise SchemaError(f"more than {MAX_PATTERNS} patterns")
        if len(pattern) > MAX_PATTERN:
            raise SchemaError(f"a pattern of more than {MAX_PATTERN} characters")
        return _pattern_cost(pattern)


@lru_cache(maxsize=1024)
def _pattern_cost(pattern: str) -> int:
    import jsonschema_rs  # noqa: PLC0415

    for size, cost in _SIZES:
        options = jsonschema_rs.RegexOptions(size_limit=size, dfa_size_limit=_CACHE_BYTES)
        try:
            jsonschema_rs.validator_for({"pattern": pattern}, offline=True, pattern_options=options)
        except (jsonschema_rs.ValidationError, ValueError):
            continue
        return cost
    raise SchemaError(f"a pattern that cannot be matched in linear time, or is too large: {pattern[:80]!r}")
