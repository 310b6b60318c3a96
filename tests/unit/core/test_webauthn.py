"""What browsers answer to passkey requests, before it is verified."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.webauthn import MAX_ANSWER, decode, encode, parse_answer


def answer(client_data: object = None, **changes: Any) -> str:
    said = {"type": "webauthn.get", "challenge": "AAEC", "origin": "https://a.example"}
    encoded = encode(json.dumps(said if client_data is None else client_data).encode())
    response = {"clientDataJSON": encoded, "userHandle": "BBBB", **changes.pop("response", {})}
    return json.dumps({"id": "AQID", "rawId": "AQID", "type": "public-key", "response": response, **changes})


def test_an_answer_names_passkey_challenge_and_person() -> None:
    parsed = parse_answer(answer())
    assert (parsed.credential_id, parsed.challenge) == ("AQID", bytes([0, 1, 2]))
    assert parsed.user_handle == base64.b64decode("BBBB")
    assert "challenge" not in repr(parsed)


@pytest.mark.parametrize("handle", [None, ""])
def test_an_answer_may_name_nobody(handle: str | None) -> None:
    assert parse_answer(answer(response={"userHandle": handle})).user_handle is None


@pytest.mark.parametrize(
    "text",
    [
        answer(id=""),
        answer(id="AQ=="),
        answer(id="A" * 1400),
        answer(id=None),
        '{"id": "AQID", "response": null}',
        answer(response={"clientDataJSON": 1}),
        answer(response={"userHandle": 1}),
        answer(response={"userHandle": "a b"}),
        answer([]),
        answer({"challenge": "AAEC", "crossOrigin": True}),
        answer({"challenge": "AAEC", "crossOrigin": None}),
        answer({"challenge": "AAEC", "crossOrigin": 0}),
        answer({"challenge": "AAEC", "topOrigin": "https://a.example"}),
        answer({"challenge": 5}),
        answer({}),
        "x" * (MAX_ANSWER + 1),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(GateError) as refused:
        parse_answer(text)
    assert refused.value.code is ErrorCode.PASSKEY_REFUSED


def test_a_member_said_twice_is_refused() -> None:
    twice = encode(b'{"challenge": "AAEC", "challenge": "AAED"}')
    with pytest.raises(GateError) as refused:
        parse_answer(json.dumps({"id": "AQID", "response": {"clientDataJSON": twice}}))
    assert refused.value.debug == "clientDataJSON is not strict JSON: duplicate_key"


@given(st.binary(min_size=1, max_size=200))
def test_bytes_survive_encoding(raw: bytes) -> None:
    assert decode(encode(raw)) == raw


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(GateError) as refused:
        parse_answer(text)
    assert refused.value.code is ErrorCode.PASSKEY_REFUSED


@pytest.mark.parametrize("text", ["", "A", "AB", "AA=", "A-+A", "ä", "AA\n", 7, None])
def test_only_the_one_spelling_is_read(text: object) -> None:
    with pytest.raises(GateError):
        decode(text)
