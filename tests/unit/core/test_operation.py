"""Operation tokens' digest, claims and states, against the published vectors and properties."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import assume, given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_SAFE_INTEGER, Kind, Message, encode_message, parse_message
from twogate.core.operation import (
    MAX_CALL,
    MAX_VALUES,
    META,
    TRANSITIONS,
    Bound,
    State,
    Step,
    canonical,
    canonical_message,
    default_method,
    digest_call,
    presented_token,
)
from twogate.core.principal import UserId

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "operation_tokens.json").read_text()
)["vectors"]

NUMBERS = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | st.floats(
    -MAX_SAFE_INTEGER, MAX_SAFE_INTEGER, allow_nan=False
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
Draw = Callable[[st.SearchStrategy[Any]], Any]
ARGUMENTS = st.dictionaries(TEXTS, JSON, max_size=5)


def digest(arguments: Any, target: str = "git.git_commit", method: str = "tools/call", **more: Any) -> str:
    return digest_call(method, target, {"name": "git_commit", "arguments": arguments, **more}).digest


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["what"])
def test_the_published_vectors_hold(vector: dict[str, Any]) -> None:
    found = digest_call(vector["method"], vector["tool"], vector["params"])
    assert (found.form.decode(), found.digest) == (vector["form"], vector["digest"])
    # Anybody can check them without this code: the form is text, the digest is SHA-256 over it.
    assert hashlib.sha256(vector["form"].encode()).hexdigest() == vector["digest"]
    form = json.loads(vector["form"])
    assert form.keys() == {"form", "method", "params", "tool"}
    assert (form["form"], form["method"], form["tool"]) == ("twogate-operation-v1", vector["method"], vector["tool"])


def test_what_would_take_long_to_write_is_refused() -> None:
    assert len(canonical([1] * (MAX_VALUES - 1))) == 2 * MAX_VALUES - 1
    many: list[object] = [
        [1] * MAX_VALUES,
        {str(number): [] for number in range(MAX_VALUES)},
        [[[]]] * (MAX_VALUES // 2),
    ]
    for value in many:
        with pytest.raises(GateError) as refused:
            canonical(value)
        assert refused.value.code is ErrorCode.TOO_LARGE


def test_the_first_vector_is_this_very_text() -> None:
    assert VECTORS[0]["form"] == (
        '{"form":"twogate-operation-v1","method":"tools/call","params":{"arguments":{"message":"Fix the totals",'
        '"repo_path":"/srv/repo"}},"tool":"git.git_commit"}'
    )
    assert VECTORS[2]["digest"] == VECTORS[0]["digest"]
    assert VECTORS[1]["digest"] != VECTORS[0]["digest"]


def test_the_page_shows_the_vectors() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "operation-tokens.md").read_text()
    for shown in (VECTORS[0]["form"], VECTORS[0]["digest"], VECTORS[1]["digest"]):
        assert f"\n{shown}\n" in page


def respelled(value: Any, draw: Draw) -> str:
    """The same value as another text: other order, white space, escapes and forms of numbers."""
    space: str = draw(st.sampled_from(("", " ", "\n\t")))
    if isinstance(value, dict):
        names: list[str] = draw(st.permutations(list(value)))
        members = (f"{space}{text(name, draw)}{space}:{space}{respelled(value[name], draw)}" for name in names)
        return "{" + ",".join(members) + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(space + respelled(item, draw) for item in value) + space + "]"
    if isinstance(value, str):
        return text(value, draw)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    forms = [json.dumps(value)]
    if isinstance(value, int) and abs(value) < 10**6:
        forms += [f"{value}.0", f"{value}e0", f"{value}00E-2"]
    form: str = draw(st.sampled_from(forms))
    return form


def text(value: str, draw: Draw) -> str:
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@given(st.data(), ARGUMENTS)
def test_what_means_the_same_has_the_same_digest_however_it_is_spelled(data: st.DataObject, value: Any) -> None:
    spelled = respelled(value, data.draw)
    raw = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","arguments":{spelled}}}}}'
    read = parse_message(raw.encode())
    assert digest(read.params["arguments"]) == digest(value)


@given(ARGUMENTS, ARGUMENTS)
def test_what_differs_in_any_way_has_another_digest(one: Any, other: Any) -> None:
    # RFC 8785 is the judge of what is the same: -0 and 0, 1 and 1.0.
    assume(rfc8785.dumps(one) != rfc8785.dumps(other))
    assert digest(one) != digest(other)


@given(ARGUMENTS)
def test_every_other_part_counts_too(arguments: Any) -> None:
    mine = digest(arguments)
    assert digest(arguments, target="git.git_push") != mine
    assert digest(arguments, method="tasks/update") != mine
    assert digest(arguments, inputResponses={}) != mine
    assert digest(arguments, task={"ttl": 1}) != mine
    assert digest(arguments, taskId="t") != mine
    assert digest({**arguments, "\u0000": None}) != mine
    assert digest(arguments, _meta={"a": 1}, requestState="x") == mine


@given(ARGUMENTS)
def test_the_canonical_message_is_what_was_digested_and_stays_so(arguments: Any) -> None:
    message = Message(Kind.REQUEST, "i", "tools/call", {"name": "git_commit", "arguments": arguments})
    made = canonical_message(message)
    body = encode_message(made)
    assert canonical(arguments) in body
    read = parse_message(body)
    assert digest(read.params["arguments"]) == digest(arguments)
    # Writing what was read again changes nothing any more.
    assert encode_message(canonical_message(read)) == body


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (2**53, ErrorCode.BAD_NUMBER),
        (-(2**53), ErrorCode.BAD_NUMBER),
        (float(2**53), ErrorCode.BAD_NUMBER),
        (1e300, ErrorCode.BAD_NUMBER),
        (float("nan"), ErrorCode.BAD_NUMBER),
        (float("-inf"), ErrorCode.BAD_NUMBER),
        ({"a": [{"b": 2**60}]}, ErrorCode.BAD_NUMBER),
        ("\ud800", ErrorCode.NOT_UTF8),
        ({"\udfff": 1}, ErrorCode.NOT_UTF8),
    ],
)
def test_what_peers_would_not_read_alike_has_no_digest(value: Any, code: ErrorCode) -> None:
    with pytest.raises(GateError) as refused:
        digest({"v": value})
    assert refused.value.code is code


def test_the_largest_safe_numbers_have_one() -> None:
    assert canonical([MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER, True]) == b"[9007199254740991,-9007199254740991,true]"


def test_a_call_is_limited_in_size() -> None:
    message = Message(Kind.REQUEST, 1, "tools/call", {"name": "x", "arguments": {"t": "x" * MAX_CALL}})
    with pytest.raises(GateError) as refused:
        canonical_message(message)
    assert refused.value.code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("git.git_log", "tools/call"),
        ("git.tool:resource:x", "tools/call"),
        ("git.prompt:p", "prompts/get"),
        ("git.resource:file:///a", "resources/read"),
    ],
)
def test_a_target_says_how_it_is_used(target: str, method: str) -> None:
    assert default_method(target) == method


BOUND = Bound("https://x/mcp/git", "acme", "https://x", "bot", UserId("https://x", "u"), "s", "git.git_log", "0" * 64)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audience", "https://x/mcp/files"),
        ("tenant", "globex"),
        ("agent_issuer", "https://y"),
        ("agent", "bot2"),
        ("user", None),
        ("user", UserId("https://y", "u")),
        ("user", UserId("https://x", "v")),
        ("session", ""),
        ("tool", "git.git_logs"),
        ("digest", "0" * 63),
    ],
)
def test_each_field_is_compared(field: str, value: object) -> None:
    other = msgspec.structs.replace(BOUND, **{field: value})
    assert BOUND.differs(other) == field
    assert other.differs(BOUND) == field
    assert BOUND.differs(msgspec.structs.replace(BOUND)) is None


def test_users_do_not_run_together() -> None:
    one = msgspec.structs.replace(BOUND, user=UserId("a", "bc"))
    other = msgspec.structs.replace(BOUND, user=UserId("ab", "c"))
    assert one.differs(other) == "user"


def test_a_token_stands_in_one_of_two_places() -> None:
    assert presented_token({}, None) is None
    assert presented_token({META: "a.b.c"}, None) == "a.b.c"
    assert presented_token({}, "a.b.c") == "a.b.c"
    assert presented_token({META: "a.b.c"}, "a.b.c") == "a.b.c"
    for meta, header in (({META: "a"}, "b"), ({META: None}, None), ({META: ""}, None), ({}, ""), ({}, "ä")):
        with pytest.raises(GateError) as refused:
            presented_token(meta, header)
        assert refused.value.code is ErrorCode.OPERATION_TOKEN_INVALID


def test_only_an_undo_leads_back_and_nothing_leads_out_of_a_known_end() -> None:
    assert {step for (_, step), after in TRANSITIONS.items() if after is State.READY} == {Step.UNDO}
    assert not [before for before, _ in TRANSITIONS if before is State.FINISHED]
    assert {step for before, step in TRANSITIONS if before is State.OUTCOME_UNKNOWN} == {Step.FINISH}
