"""Reading a JSON Schema into what each of its subschemas applies to the same value, and to its parts.

A schema is a server's text, so reading it is guarded: nothing is followed but `#/…`, and whatever could make its
validator see another schema than is read here (another base, an anchor, a dynamic reference) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import unquote

MAX_SUBSCHEMAS: Final = 5000

_CONTAINER: Final = 20
_FLOAT: Final = 200
"""Units of comparing two numbers that are no integers: that is exact, and slow."""
_MULTIPLE: Final = 1500
_BOUND: Final = 100
"""Units of a bound that is no integer."""
_LONG: Final = 64
_JSON_CHAR: Final = 8
"""Units for each character of a text that must be JSON itself: it is parsed, for each subschema that says so."""
_ENCODED_CHAR: Final = 1
_UNEVALUATED: Final = 3
"""What `unevaluated…` needs to know of the schemas beside it is found out by asking them again."""

_ONE: Final = ("not", "if", "then", "else")
_SEVERAL: Final = ("allOf", "anyOf", "oneOf")
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_REST: Final = ("contains", "unevaluatedItems", "additionalItems")
_COUNTED: Final = ("enum", "const", "required", "type", "dependentRequired", "dependencies")
_NOT_HERE: Final = ("$dynamicRef", "$recursiveRef")
# The dialects in which what is said of a text's content is no assertion; the first is what counts without one.
_CONTENT_UNASSERTED: Final = (
    None,
    *(f"https://json-schema.org/draft/{draft}/schema{end}" for draft in ("2019-09", "2020-12") for end in ("", "#")),
)
_ASIDE: Final = ("$defs", "definitions")
_ESCAPES: Final = re.compile(r"%(?:2[fF]|7[eE]|25)|~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,5}")
_NOWHERE: Final = object()

PatternCost = Callable[[str], int]
"""Units for each character that a pattern looks at. Raises SchemaError for one that cannot be used."""


class SchemaError(ValueError):
    """A schema by which nothing is checked here; the text says why, for an operator."""


class Node:
    """One subschema: what it costs by itself, and the subschemas that it applies to the same value or to parts."""

    def __init__(self) -> None:
        self.own = 1
        self.per_char = 0
        self.unique = False
        self.factor = 1
        self.same: list[int] = []
        self.properties: dict[str, int] = {}
        self.patterns: list[int] = []
        self.per_key_char = 0
        self.names: list[int] = []
        self.additional: list[int] = []
        self.prefix: list[int] = []
        self.items: list[int] = []
        self.every: list[int] = []


class SchemaReader:
    """Reads one schema. Afterwards `nodes` has its subschemas, the schema itself first.

    `contextual` ones tell of an error by telling of every branch that failed.
    """

    def __init__(self, root: Mapping[str, Any], pattern_cost: PatternCost) -> None:
        self._root = root
        self._pattern_cost = pattern_cost
        self._asserts_content = root.get("$schema") not in _CONTENT_UNASSERTED
        self._numbers: dict[int, int] = {}
        self._waiting: list[tuple[int, object]] = []
        self.nodes: list[Node] = []
        self.contextual = False

    def read(self) -> None:
        """Read everything.

        Raises:
            SchemaError: it refers elsewhere, or is too large or malformed.
        """
        self._number(self._root)
        while self._waiting:
            number, schema = self._waiting.pop()
            if isinstance(schema, dict):
                self._read(self.nodes[number], cast("dict[str, Any]", schema))
            elif not isinstance(schema, bool):
                raise SchemaError("a subschema is neither an object nor a boolean")

    def _number(self, schema: object) -> int:
        # Values of one JSON text are a tree: each place is an object of its own, but for booleans.
        known = None if isinstance(schema, bool) else self._numbers.get(id(schema))
        if known is not None:
            return known
        if len(self.nodes) >= MAX_SUBSCHEMAS:
            raise SchemaError(f"more than {MAX_SUBSCHEMAS} subschemas")
        number = len(self.nodes)
        self.nodes.append(Node())
        if not isinstance(schema, bool):
            self._numbers[id(schema)] = number
        self._waiting.append((number, schema))
        return number

    def _read(self, node: Node, schema: dict[str, Any]) -> None:
        self._check_names(schema)
        node.own += len(schema) + sum(_weight(schema[name]) for name in _COUNTED if name in schema)
        node.own += sum(_BOUND for name in _BOUNDS if isinstance(schema.get(name), float))
        node.own += _MULTIPLE if "multipleOf" in schema else 0
        node.unique = schema.get("uniqueItems") is True
        if isinstance(pattern := schema.get("pattern"), str):
            node.per_char += self._pattern_cost(pattern)
        if self._asserts_content:
            node.per_char += _JSON_CHAR if "contentMediaType" in schema else 0
            node.per_char += _ENCODED_CHAR if "contentEncoding" in schema else 0
        node.same = list(self._same(schema))
        self.contextual = self.contextual or "anyOf" in schema or "oneOf" in schema
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            node.factor = _UNEVALUATED
        self._read_object(node, schema)
        self._read_array(node, schema)
        for name in _ASIDE:
            # Applied by no one but references, and read all the same: nothing there may be named elsewhere.
            for _ in self._map(schema, name):
                pass

    def _same(self, schema: dict[str, Any]) -> Iterator[int]:
        if "$ref" in schema:
            yield self._number(self._resolved(schema["$ref"]))
        for name in _ONE:
            if name in schema:
                yield self._number(schema[name])
        for name in _SEVERAL:
            yield from self._list(schema, name)
        for _, number in self._map(schema, "dependentSchemas"):
            yield number
        for _, value in _members(schema, "dependencies"):
            if not isinstance(value, list):
                yield self._number(value)

    def _read_object(self, node: Node, schema: dict[str, Any]) -> None:
        node.properties = dict(self._map(schema, "properties"))
        node.own += len(node.properties)
        for pattern, number in self._map(schema, "patternProperties"):
            node.per_key_char += self._pattern_cost(pattern)
            node.patterns.append(number)
        if "propertyNames" in schema:
            node.names.append(self._number(schema["propertyNames"]))
        if "additionalProperties" in schema:
            node.additional.append(self._number(schema["additionalProperties"]))
        if "unevaluatedProperties" in schema:
            node.patterns.append(self._number(schema["unevaluatedProperties"]))

    def _read_array(self, node: Node, schema: dict[str, Any]) -> None:
        items: object = schema.get("items")
        if isinstance(items, list):
            node.prefix = list(self._list(schema, "items"))
        elif items is not None:
            node.items.append(self._number(items))
        node.prefix += self._list(schema, "prefixItems")
        for name in _REST:
            if name in schema:
                node.every.append(self._number(schema[name]))

    def _check_names(self, schema: dict[str, Any]) -> None:
        for name in _NOT_HERE:
            if name in schema:
                raise SchemaError(f"{name} is not followed here")
        if schema is self._root:
            return
        for name in ("$id", "id", "$schema"):
            # Another base, by which references would lead elsewhere.
            if isinstance(schema.get(name), str):
                raise SchemaError(f"{name} within a schema is not followed here")

    def _resolved(self, reference: object) -> object:
        # RFC 6901 section 6. Only what every reader resolves alike.
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise SchemaError("a $ref leads out of the schema, or to an anchor; only #/… is followed")
        if _ESCAPES.search(reference):
            raise SchemaError("a $ref has an escape that readers disagree about")
        found: object = self._root
        for part in reference.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                members = cast("dict[str, object]", found)
                found = members.get(name, _NOWHERE)
            elif isinstance(found, list) and _INDEX.fullmatch(name):
                listed = cast("list[object]", found)
                found = listed[int(name)] if int(name) < len(listed) else _NOWHERE
            else:
                found = _NOWHERE
        if not isinstance(found, dict | bool):
            raise SchemaError("a $ref leads to nothing, or to no schema")
        return cast("object", found)

    def _list(self, schema: dict[str, Any], name: str) -> Iterator[int]:
        value: object = schema.get(name, ())
        for item in cast("list[object]", value) if isinstance(value, list) else ():
            yield self._number(item)

    def _map(self, schema: dict[str, Any], name: str) -> Iterator[tuple[str, int]]:
        for key, value in _members(schema, name):
            yield key, self._number(value)


def _members(schema: dict[str, Any], name: str) -> Iterator[tuple[str, object]]:
    value: object = schema.get(name)
    if isinstance(value, dict):
        yield from cast("dict[str, object]", value).items()


def _weight(value: object) -> int:
    """Units of comparing something with a constant, or with each of a list of them."""
    if isinstance(value, list):
        return sum(_part(item) for item in cast("list[object]", value))
    return _part(value)


def _part(value: object) -> int:
    if isinstance(value, float):
        return _FLOAT
    if isinstance(value, dict | list):
        members = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        return _CONTAINER + sum(max(_CONTAINER, _part(member)) for member in members)
    return 1 + len(value) // _LONG if isinstance(value, str) else 1
