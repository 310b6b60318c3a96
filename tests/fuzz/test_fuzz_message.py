import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.invariants import MESSAGE_CODES, check_message, exact
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Message, encode_message, parse_answer, parse_message

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)
requests = st.builds(
    lambda identifier, arguments: {
        "jsonrpc": "2.0",
        "id": identifier,
        "method": "tools/call",
        "params": {"name": "t", "arguments": arguments},
    },
    st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8"), max_size=256),
    st.dictionaries(st.text(st.characters(codec="utf-8")), values, max_size=5),
)
layouts = st.sampled_from(
    [{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":"), "ensure_ascii": False}]
)


def outcome(parse: Callable[[bytes], Message], raw: bytes) -> Message | ErrorCode:
    try:
        return parse(raw)
    except GateError as error:
        return error.code


@given(requests, layouts)
def test_every_valid_call_is_read_exactly_and_goes_upstream_equal(
    request: dict[str, Any], layout: dict[str, Any]
) -> None:
    message = parse_message(json.dumps(request, **layout).encode())
    assert exact(message.params) == exact(request["params"])
    assert exact(json.loads(encode_message(message))) == exact(request)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0adename1-.eE \n', max_size=80).map(str.encode))
def test_no_bytes_make_the_parsers_fail_otherwise_than_by_refusing(raw: bytes) -> None:
    read, answer = outcome(parse_message, raw), outcome(parse_answer, raw)
    assert isinstance(read, Message) or read in MESSAGE_CODES
    assert isinstance(answer, Message) or answer is ErrorCode.UPSTREAM_INVALID


@given(requests, layouts, st.data())
def test_a_mutated_call_is_refused_or_read_as_a_second_parser_reads_it(
    request: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    raw = bytearray(json.dumps(request, **layout).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 4))] = data.draw(
            st.binary(max_size=3)
            | st.sampled_from([b'"name":"x",', b'"n\\u0061me":"x",', b"[", b"{", b"1e999", b"\\ud800"])
        )
    check_message(bytes(raw))


@given(st.dictionaries(st.sampled_from(["a", "b", "\u00fc", "\U0001f600"]), st.integers(), min_size=1), st.data())
def test_a_repeated_member_is_refused_however_it_is_escaped(members: dict[str, int], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(members)))
    units = name.encode("utf-16-be").hex()
    escaped = "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))
    members = {key: value % 1000 for key, value in members.items()}
    text = json.dumps(members)[:-1] + f', "{escaped}": 0}}'
    head = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":'
    assert outcome(parse_message, head + text.encode() + b"}}") is ErrorCode.DUPLICATE_KEY
