"""Arguments that the approved schema does not allow, and schemas made to hurt whoever checks by them (row R-43).

The schema is the server's text. It must not make the gateway fetch anything, nor work for longer than a moment,
whatever the caller sends; and what it refuses reaches no server.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.issuer import TestIssuer
from harness.upstream import RecordingUpstream
from ruglab import FIND, LEGACY, MODERN, RugLab, rug_lab
from twogate.adapters.argument_schema import MAX_PATH, MAX_PATTERNS, MAX_SCHEMA, ArgumentSchema
from twogate.core.errors import INVALID_PARAMS, ErrorCode, GateError
from twogate.core.schema_cost import MAX_CHAIN, TooCostlyError
from twogate.core.schema_reader import SchemaError
from twogate.flows.gateway.arguments import BUDGET

OBJECT: dict[str, Any] = {"type": "object"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "maxLength": 20, "pattern": "^[a-z]+$"},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "näme/~x": {"type": "boolean"},
        "mode": {"enum": ["fast", "slow"], "default": "fast"},
        "when": {"type": "string", "format": "date-time"},
        "owner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/owner"}]},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {"owner": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}},
}


class Lab:
    """A gateway before a server whose tool `look` has the schema of the test, approved as it is."""

    def __init__(self, rug: RugLab) -> None:
        self.rug = rug

    async def approve(self, schema: object) -> None:
        self.rug.server.face.tools = [[{"name": "look", "inputSchema": schema}, copy.deepcopy(FIND)]]
        await self.rug.approve()
        self.rug.anew()

    async def call(self, arguments: object, version: str = LEGACY) -> httpx2.Response:
        params = {"name": "look"} if arguments is ... else {"name": "look", "arguments": arguments}
        return await self.rug.send("tools/call", params, version=version)

    async def refused(self, arguments: object, path: str, keyword: str) -> None:
        """Refused with this place and keyword, and nothing ran."""
        response = await self.call(arguments)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["code"] == INVALID_PARAMS
        assert (error["data"]["path"], error["data"]["keyword"]) == (path, keyword)
        assert self.rug.stack.reasons()[-1] == "arguments_invalid"
        assert self.rug.server.used == []


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[Lab]:
    async with rug_lab(tmp_path, issuer) as made:
        yield Lab(made)


async def test_arguments_that_do_not_fit_are_refused_with_their_place(lab: Lab) -> None:
    await lab.approve(SCHEMA)
    for arguments, path, keyword in (
        (..., "", "required"),
        ({}, "", "required"),
        ({"path": 5}, "/path", "type"),
        ({"path": None}, "/path", "type"),
        ({"path": "a" * 21}, "/path", "maxLength"),
        ({"path": "../etc"}, "/path", "pattern"),
        ({"path": "a\n"}, "/path", "pattern"),
        ({"path": "a", "Path": "b"}, "", "additionalProperties"),
        ({"path": "a", "lines": [1, 2, "3"]}, "/lines/2", "type"),
        ({"path": "a", "lines": [1, -1]}, "/lines/1", "minimum"),
        ({"path": "a", "lines": {"0": 1}}, "/lines", "type"),
        ({"path": "a", "näme/~x": "yes"}, "/näme~1~0x", "type"),
        ({"path": "a", "mode": "Fast"}, "/mode", "enum"),
        ({"path": "a", "owner": {"id": "1"}}, "/owner", "anyOf"),
    ):
        await lab.refused(arguments, path, keyword)


async def test_arguments_that_fit_go_on_as_they_were_sent(lab: Lab) -> None:
    await lab.approve(SCHEMA)
    # No default is filled in, and a format is a remark.
    good = {"path": "abc", "lines": [0, 2.0], "näme/~x": True, "when": "soon", "owner": None}
    for version in (LEGACY, MODERN):
        assert (await lab.call(good, version)).status_code == 200
        sent = [seen.message for seen in lab.rug.server.seen if seen.body]
        assert [item["params"]["arguments"] for item in sent if item["method"] == "tools/call"][-1] == good


async def test_a_refusal_tells_names_and_never_a_value(lab: Lab) -> None:
    await lab.approve(SCHEMA)
    secret = "hunter2-hunter2-hunter2-hunter2"
    response = await lab.call({"path": secret, "lines": [secret]})
    assert response.status_code == 400
    assert secret not in response.text
    assert secret not in str(lab.rug.stack.events())


async def test_a_long_path_is_cut_between_its_members(lab: Lab) -> None:
    await lab.approve({"type": "object", "additionalProperties": {"additionalProperties": {"type": "integer"}}})
    await lab.refused({"a" * 200: {"b" * 200: "x"}}, "/" + "a" * 200, "type")
    await lab.refused({"a" * (MAX_PATH + 1): {"b": "x"}}, "", "type")


async def test_a_caller_cannot_pass_a_second_set_of_arguments_by_another_name(lab: Lab) -> None:
    await lab.approve(SCHEMA)
    response = await lab.rug.send("tools/call", {"name": "look", "arguments": {"path": "a"}, "Arguments": {"path": 5}})
    assert response.status_code == 400
    assert lab.rug.server.used == []


@pytest.mark.parametrize("arguments", [[], "x", 5, None])
async def test_arguments_that_are_no_object_are_refused(lab: Lab, arguments: object) -> None:
    await lab.approve(SCHEMA)
    assert (await lab.call(arguments)).status_code == 400
    assert lab.rug.server.used == []


async def test_what_was_not_approved_is_not_checked_nor_where_the_operator_says_so(lab: Lab) -> None:
    await lab.approve(SCHEMA)
    server = lab.rug.settings["servers"]["files"]
    lab.rug.anew(servers={"files": {**server, "arguments": "forward"}})
    assert (await lab.call({"path": 5})).status_code == 200
    lab.rug.anew(servers={"files": server})
    lab.rug.server.seen.clear()
    await lab.refused({"path": 5}, "/path", "type")
    await lab.rug.pins.withdraw("acme", "files", ["files.look"])
    assert (await lab.call({"path": 5})).status_code == 200


async def test_the_schema_that_was_approved_counts_and_not_the_one_that_is_shown(lab: Lab) -> None:
    await lab.approve(SCHEMA)
    lab.rug.server.face.tools[0][0]["inputSchema"] = OBJECT
    response = await lab.call({"path": 5})
    assert response.status_code in (400, 403)
    assert lab.rug.server.used == []


async def test_a_schema_that_cannot_be_checked_lets_nothing_through(lab: Lab) -> None:
    for schema in ({"$ref": "#"}, {"type": "nothing"}, {"pattern": "(?=a)"}, 5, None):
        await lab.approve(schema)
        response = await lab.call({})
        assert response.status_code == 403
        assert lab.rug.stack.reasons()[-1] == "tool_invalid"
        assert lab.rug.server.used == []


async def test_no_schema_makes_the_gateway_fetch_anything(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    async with RecordingUpstream() as recorder:
        for schema in (
            {"$ref": recorder.url},
            {"properties": {"path": {"$ref": f"{recorder.url}#/$defs/a"}}},
            {"$schema": recorder.url},
            {"$id": recorder.url, "$ref": "other"},
            {"$id": recorder.url, "properties": {"path": {"$ref": "#/$defs/a"}}},
            {"properties": {"path": {"$id": recorder.url, "$ref": "#/a"}}},
            {"$dynamicRef": recorder.url},
            {"$defs": {"a": {"$ref": recorder.url}}},
            {"allOf": [{"not": {"$ref": recorder.url}}]},
            {"$ref": f"file://{tmp_path}/schema.json"},
            {"$ref": "schema.json"},
            {"$ref": "//127.0.0.1/schema"},
        ):
            await lab.approve(schema)
            assert (await lab.call({"path": "a"})).status_code == 403, schema
            assert lab.rug.stack.reasons()[-1] == "tool_invalid"
        assert recorder.seen == []
    assert lab.rug.server.used == []


def dag(keyword: str, depth: int) -> dict[str, Any]:
    """Few lines that apply 2^depth subschemas to one value."""
    rungs = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(depth)}
    return {"$defs": {**rungs, f"a{depth}": {"type": "string"}}, "$ref": "#/$defs/a0"}


def nested(keyword: str, depth: int, **beside: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {"a": True}}
    for _ in range(depth):
        schema = {keyword: [copy.deepcopy(schema)], **beside}
    return schema


REFUSED: dict[str, dict[str, Any]] = {
    **{f"{keyword} that doubles": dag(keyword, 40) for keyword in ("allOf", "anyOf", "oneOf")},
    "itself": {"$ref": "#"},
    "itself, by way of others": {"allOf": [{"if": {"$ref": "#/allOf/0"}}]},
    "a ring": {"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"$ref": "#/$defs/a"}}},
    "a ring in what only a part reaches": {
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"$ref": "#/$defs/a"}},
    },
    "unevaluated, nested": nested("allOf", 20, unevaluatedProperties=False),
    "a long chain": nested("allOf", MAX_CHAIN + 1),
    "$dynamicRef": {"$dynamicAnchor": "a", "properties": {"a": {"$dynamicRef": "#a"}}},
    "$recursiveRef": {"$schema": "https://json-schema.org/draft/2019-09/schema", "items": {"$recursiveRef": "#"}},
    "an anchor": {"$ref": "#a", "$defs": {"a": {"$anchor": "a"}}},
    "another base": {"properties": {"a": {"$id": "https://a.example/", "type": "string"}}},
    "a dialect within": {"properties": {"a": {"$schema": "http://json-schema.org/draft-04/schema#"}}},
    "a doubtful escape": {"$ref": "#/$defs/a%2Fb", "$defs": {"a/b": {}, "a": {"b": {}}}},
    "nothing there": {"$ref": "#/$defs/a"},
    "no schema there": {"$ref": "#/$defs", "$defs": 5},
    "too many subschemas": {"anyOf": [{"const": n} for n in range(6000)]},
    "too many at once": {"allOf": [{"properties": {f"k{n}": True for n in range(1000)}}] * 300},
    "many that all apply many": {
        "$defs": {"many": {"allOf": [True] * 1000}},
        "properties": {f"k{n}": {"$ref": "#/$defs/many"} for n in range(400)},
    },
    "too large": {"description": "x" * MAX_SCHEMA},
    "too many patterns": {"patternProperties": {f"^{n}": True for n in range(MAX_PATTERNS + 1)}},
    "a long pattern": {"pattern": "a" * 5000},
    "a huge pattern": {"pattern": "((a{1,99}){1,99}){1,99}"},
    "look-ahead": {"pattern": "^(?!-)a"},
    "a backreference": {"pattern": r"(a)\1"},
    "no schema": {"type": "strings"},
    "an unknown dialect": {"$schema": "https://a.example/schema"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_cannot_be_checked_in_time_is_refused_when_it_is_read(name: str) -> None:
    with pytest.raises(SchemaError):
        ArgumentSchema(copy.deepcopy(REFUSED[name]))


def deep(levels: int, name: str = "c") -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {name: value}
    return value


def recursive(**schema: Any) -> dict[str, Any]:
    return {"$defs": {"n": schema}, "$ref": "#/$defs/n"}


def bracketed(size: int) -> list[list[Any]]:
    """Every way to nest so many empty lists in a list."""
    if size == 0:
        return [[]]
    return [[first, *rest] for at in range(size) for first in bracketed(at) for rest in bracketed(size - 1 - at)]


AGAIN: dict[str, Any] = {"properties": {"c": {"$ref": "#/$defs/n"}}}
COSTLY: dict[str, tuple[dict[str, Any], object]] = {
    "a tree that is gone through twice at each level": (recursive(allOf=[AGAIN, copy.deepcopy(AGAIN)]), deep(60)),
    "the same by unevaluated": (recursive(allOf=[AGAIN], unevaluatedProperties=False), deep(60)),
    "by anyOf": (recursive(anyOf=[{**AGAIN, "required": [name]} for name in "xyz"]), deep(60)),
    "a huge enumeration of objects": (
        {"additionalProperties": {"items": {"enum": [{"a": n} for n in range(5000)]}}},
        {"a": [{"a": 1}] * 5000},
    ),
    "a huge enumeration of fractions": (
        {"additionalProperties": {"items": {"enum": [n + 0.5 for n in range(10000)]}}},
        {"a": [0.25] * 5000},
    ),
    "divisions": ({"additionalProperties": {"items": {"multipleOf": 0.0001}}}, {"a": [1e300] * 50_000}),
    "a slow pattern over much text": (
        {"additionalProperties": {"pattern": "(([ab]{1,9}a){1,9}b){1,3}c"}},
        {"a": "ab" * 500_000},
    ),
    "slow patterns over many names": (
        {"patternProperties": {"(a|b)*a(a|b){90}c": True, "(a|b)*b(a|b){90}c": True}},
        {f"{n}" * 20: n for n in range(9999)},
    ),
    "names that must match": (
        {"propertyNames": {"pattern": "(a|b)*a(a|b){90}c"}},
        {f"{n}" * 20: n for n in range(9999)},
    ),
    "unique at every level": (
        {
            "$defs": {"n": {"uniqueItems": True, "items": {"$ref": "#/$defs/n"}}},
            "additionalProperties": {"$ref": "#/$defs/n"},
        },
        {"a": [[[[n, [n]]] * 9] * 9 for n in range(5000)]},
    ),
    "unique, and told apart by brackets alone": (
        {"additionalProperties": {"uniqueItems": True}},
        {"a": [item for size in range(8) for item in bracketed(size)]},
    ),
    "unique large integers that are one as fractions": (
        {"additionalProperties": {"uniqueItems": True}},
        {"a": [2**63 + n for n in range(2000)]},
    ),
    "many short lists of unique fractions": (
        {"additionalProperties": {"items": {"uniqueItems": True}}},
        {"a": [[n + 0.5 for n in range(15)]] * 1000},
    ),
    "texts that must be JSON, over and over": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "additionalProperties": {"allOf": [{"contentMediaType": "application/json"} for _ in range(50)]},
        },
        {"a": "[" + "1," * 50_000 + "1]"},
    ),
    "texts that must be base64, over and over": (
        {
            "$schema": "http://json-schema.org/draft-06/schema",
            "additionalProperties": {"allOf": [{"contentEncoding": "base64"} for _ in range(50)]},
        },
        {"a": "A" * 100_000},
    ),
    "a long name, looked at over and over": (
        {"allOf": [{"propertyNames": {"minLength": n}} for n in range(600)]},
        {"x" * 900_000: 1},
    ),
    "bounds that are fractions": (
        {"additionalProperties": {"items": {"minimum": 0.1, "maximum": 1e300}}},
        {"a": [0.3] * 99_999},
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_arguments_that_would_take_too_long_are_not_even_begun(name: str) -> None:
    schema, arguments = COSTLY[name]
    compiled = ArgumentSchema(copy.deepcopy(schema))
    with pytest.raises(TooCostlyError):
        compiled.check(arguments, BUDGET)


async def test_a_call_that_would_take_too_long_is_refused_and_nothing_runs(lab: Lab) -> None:
    schema, arguments = COSTLY["by anyOf"]
    await lab.approve(schema)
    await lab.refused(deep(40), "", "schema")
    assert arguments != {}
    assert (await lab.call({})).status_code == 400


ALLOWED: dict[str, tuple[dict[str, Any], object]] = {
    "a tree": (recursive(type="object", properties={"c": {"$ref": "#/$defs/n"}}), deep(60)),
    "a long chain at every level": (
        {
            "$ref": "#/$defs/n0",
            "$defs": {
                **{f"n{n}": {"$ref": f"#/$defs/n{n + 1}"} for n in range(MAX_CHAIN - 2)},
                f"n{MAX_CHAIN - 2}": {"properties": {"c": {"$ref": "#/$defs/n0"}}},
            },
        },
        deep(60),
    ),
    "one long text": (
        {"properties": {"path": {"pattern": "^[a-z]+$"}, "content": {"type": "string"}}},
        {"path": "a", "content": "x" * 3_000_000},
    ),
    "many rows": (
        {"properties": {"rows": {"items": {"properties": {f"c{n}": {"type": "string"} for n in range(10)}}}}},
        {"rows": [{f"c{n}": "text" for n in range(10)} for _ in range(5000)]},
    ),
    "a large document in a text": (
        {"properties": {"a": {"contentEncoding": "base64", "contentMediaType": "application/json"}}},
        {"a": "A" * 3_000_000},
    ),
    "many rows that are unique": (
        {"properties": {"rows": {"uniqueItems": True, "items": {"type": "object"}}}},
        {"rows": [{"id": n, "name": f"row {n}", "at": n / 8} for n in range(3000)]},
    ),
    "many numbers": ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": list(range(100_000))}),
    "a large enumeration": (
        {"additionalProperties": {"enum": [f"zone-{n}" for n in range(500)]}},
        {f"k{n}": "zone-7" for n in range(50)},
    ),
    "catastrophic elsewhere": ({"additionalProperties": {"pattern": "^(a+)+$"}}, {"a": "a" * 30_000}),
    "an older dialect": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$id": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a b": {"type": "integer"}},
            "properties": {"a": {"$ref": "#/definitions/a%20b"}},
        },
        {"a": 5},
    ),
    "properties named like keywords": (
        {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}, "enum": {"type": "string"}}},
        {"$ref": "http://a"},
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_honest_servers_ask_for_is_checked(name: str) -> None:
    schema, arguments = ALLOWED[name]
    compiled = ArgumentSchema(copy.deepcopy(schema))
    failures: list[BaseException] = []

    def check() -> None:
        try:
            compiled.check(arguments, BUDGET)
        except (GateError, TooCostlyError) as error:
            failures.append(error)

    # In a thread, whose stack is the smallest there is.
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("schema", "arguments", "path"),
    [
        (
            {
                "$id": "http://json-schema.org/draft-07/schema#",
                "properties": {"a": {"$ref": "#/$defs/x"}},
                "$defs": {"x": {"type": "integer"}},
            },
            {"a": "s"},
            "/a",
        ),
        (
            {"properties": {"a": {"$ref": "#/$defs/x%7By%7D~1z"}}, "$defs": {"x{y}/z": {"type": "integer"}}},
            {"a": "s"},
            "/a",
        ),
        (
            {"properties": {"a": {"$ref": "#/anyOf/1"}}, "anyOf": [True, {"type": ["integer", "object"]}]},
            {"a": "s"},
            "/a",
        ),
        ({"properties": {"a": {"$ref": "#/x-parts/y"}}, "x-parts": {"y": {"type": "integer"}}}, {"a": "s"}, "/a"),
        (
            {"prefixItems": [{}], "properties": {"a": {"prefixItems": [{}], "items": {"type": "integer"}}}},
            {"a": ["s", "s"]},
            "/a/1",
        ),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, ""),
    ],
)
def test_what_is_read_of_a_schema_is_what_its_validator_sees(schema: Any, arguments: Any, path: str) -> None:
    with pytest.raises(GateError) as refusal:
        ArgumentSchema(schema).check(arguments, BUDGET)
    assert refusal.value.code is ErrorCode.ARGUMENTS_INVALID
    assert refusal.value.data is not None
    assert refusal.value.data["path"] == path


def test_an_error_with_many_branches_is_told_without_telling_them_all() -> None:
    branches = [{"items": {"enum": [f"v{n}" for n in range(200)]}} for _ in range(20)]
    compiled = ArgumentSchema({"properties": {"a": {"anyOf": branches}}})
    with pytest.raises(GateError) as refusal:
        compiled.check({"a": ["x"] * 300}, BUDGET)
    assert refusal.value.data == {"path": "", "keyword": "schema"}
