"""What is read of a schema, and what checking by it costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.schema_cost import MAX_CHAIN, SchemaCost, TooCostlyError
from twogate.core.schema_reader import MAX_SUBSCHEMAS, SchemaError

PLENTY = 10**9
WORDS = [
    "$ref", "$defs", "$id", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "properties", "patternProperties",
    "additionalProperties", "propertyNames", "items", "prefixItems", "contains", "dependentSchemas", "dependencies",
    "unevaluatedProperties", "unevaluatedItems", "enum", "const", "required", "type", "pattern", "multipleOf",
    "minimum", "uniqueItems", "a",
]  # fmt: skip
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(
    ["#", "#/$defs/a", "#/properties/a", "#/allOf/0", "#a", "x", "http://a", "string", "object"]
)  # fmt: skip
ANYTHING = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=25,
)  # fmt: skip
SCHEMAS = st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=5)


def cost(schema: dict[str, Any], value: object, per_char: int = 1) -> int:
    return SchemaCost(schema, lambda pattern: per_char).of(value, PLENTY)


@given(SCHEMAS, ANYTHING)
def test_any_schema_is_either_refused_or_has_a_cost(schema: dict[str, Any], value: object) -> None:
    schema = copy.deepcopy(schema)
    try:
        read = SchemaCost(schema, len)
    except SchemaError:
        return
    try:
        spent = read.of(value, PLENTY)
    except TooCostlyError:
        return
    assert spent > 0
    # The budget is the only thing that decides.
    assert read.of(value, spent) == spent
    with pytest.raises(TooCostlyError):
        read.of(value, spent - 1)


def test_what_applies_twice_costs_twice() -> None:
    one = cost({"allOf": [{"enum": list(range(1000))}]}, 1)
    two = cost({"allOf": [{"enum": list(range(1000))}, {"enum": list(range(1000))}]}, 1)
    assert 1000 < one < two < 2 * one
    assert two - one > 1000


def test_recursion_costs_as_deep_as_the_value_goes() -> None:
    again = {"properties": {"c": {"$ref": "#"}}}
    line = {"properties": {"c": {"$ref": "#"}}}
    tree = {"allOf": [again, copy.deepcopy(again)]}
    value: dict[str, Any] = {}
    steps: list[tuple[int, int]] = []
    for _ in range(12):
        value = {"c": value}
        steps.append((cost(copy.deepcopy(line), value), cost(copy.deepcopy(tree), value)))
    assert steps[11][0] < 3 * steps[3][0] + 100
    assert steps[11][1] > 100 * steps[3][1]


def test_a_pattern_costs_by_the_character_where_it_applies_and_nowhere_else() -> None:
    schema = {"properties": {"path": {"pattern": "x"}, "content": {"type": "string"}}}
    short = cost(schema, {"path": "a", "content": "b"}, 100)
    assert cost(schema, {"path": "a", "content": "b" * 100_000}, 100) == short
    assert cost(schema, {"path": "a" * 1001, "content": "b"}, 100) == short + 100_000


def test_names_cost_where_names_are_checked() -> None:
    plain = cost({"properties": {}}, {"a" * 1000: 1}, 100)
    for schema in ({"patternProperties": {"x": True}}, {"propertyNames": {"pattern": "x"}}):
        assert cost(schema, {"a" * 1000: 1}, 100) > plain + 100_000


def test_items_of_a_tuple_cost_each_their_own() -> None:
    many = {"enum": list(range(5000))}
    schema = {"prefixItems": [True, copy.deepcopy(many)], "items": True}
    assert cost(schema, [1]) < 1000 < cost(schema, [1, 1]) < cost(schema, [1, 1, 1]) + 1
    assert cost(schema, [1] * 20) - cost(schema, [1, 1]) < 1000
    older = {"items": [True, copy.deepcopy(many)], "additionalItems": True}
    assert cost(older, [1]) < 1000 < cost(older, [1, 1])


def test_a_schema_of_the_allowed_size_and_depth_is_read() -> None:
    schema: dict[str, Any] = {}
    for _ in range(MAX_CHAIN - 1):
        schema = {"not": schema}
    assert cost(schema, 1) > 0
    with pytest.raises(SchemaError, match="apply each other"):
        cost({"not": {"not": schema}}, 1)
    with pytest.raises(SchemaError, match=str(MAX_SUBSCHEMAS)):
        cost({"properties": {str(number): {} for number in range(MAX_SUBSCHEMAS)}}, 1)


def test_a_long_chain_behind_what_was_read_already_is_found() -> None:
    # The half at the end is known when the half at the beginning is read.
    half = MAX_CHAIN // 2 + 2
    rungs: dict[str, Any] = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(2 * half)}
    rungs[f"a{2 * half}"] = {}
    schema = {"properties": {"x": {"$ref": f"#/$defs/a{half}"}, "y": {"$ref": "#/$defs/a0"}}, "$defs": rungs}
    with pytest.raises(SchemaError, match="apply each other"):
        cost(schema, 1)


def test_branches_are_told_from_schemas_without_any() -> None:
    assert SchemaCost({"properties": {"a": {"oneOf": [{}]}}}, len).contextual
    assert not SchemaCost({"properties": {"a": {"allOf": [{}]}}}, len).contextual
