"""Form bytes to a token request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorization_details import parse_details
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.token_request import (
    MAX_BODY,
    MAX_PARAMETERS,
    Wanted,
    parse_form,
    parse_grant_type,
    parse_wanted,
    verify_wanted,
)

REFUSALS = {
    ErrorCode.TOO_LARGE,
    ErrorCode.REQUEST_MALFORMED,
    ErrorCode.PARAMETER_REPEATED,
    ErrorCode.RESOURCE_INVALID,
}


def refused(body: bytes) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        parse_form(body)
    return caught.value.code


def test_a_form_is_decoded_as_utf_8() -> None:
    assert parse_form(b"a=b+c&d=%C3%A9%26%3D&e=%2B") == {"a": "b c", "d": "é&=", "e": "+"}
    assert parse_form(b"") == {}


def test_a_parameter_without_a_value_counts_as_absent() -> None:
    assert parse_form(b"a=&b=1") == {"b": "1"}


def test_a_repeated_parameter_is_refused_even_if_one_has_no_value() -> None:
    for body in (b"a=1&a=1", b"a=&a=1", b"%61=1&a=2"):
        assert refused(body) is ErrorCode.PARAMETER_REPEATED
    assert refused(b"resource=a&resource=b") is ErrorCode.RESOURCE_INVALID


def test_the_caps_hold_exactly() -> None:
    assert len(parse_form(b"a=" + b"b" * (MAX_BODY - 2))["a"]) == MAX_BODY - 2
    assert refused(b"a=" + b"b" * (MAX_BODY - 1)) is ErrorCode.TOO_LARGE
    pairs = [f"p{number}=1".encode() for number in range(MAX_PARAMETERS + 1)]
    assert len(parse_form(b"&".join(pairs[:-1]))) == MAX_PARAMETERS
    assert refused(b"&".join(pairs)) is ErrorCode.REQUEST_MALFORMED


def test_a_refusal_does_not_quote_the_form() -> None:
    with pytest.raises(GateError) as caught:
        parse_form(b"client_secret=1&broken-secret")
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=200) | st.text("&=%+aF0\x00é", max_size=40).map(str.encode))
def test_any_bytes_are_either_read_or_refused(body: bytes) -> None:
    outcome: ErrorCode | None = None
    try:
        parse_form(body)
    except GateError as error:
        outcome = error.code
    assert outcome is None or outcome in REFUSALS


def test_a_request_names_its_resource_and_scopes_once_each() -> None:
    form = {"resource": "r", "scope": "b a b", "other": "x"}
    assert parse_wanted(form) == Wanted("r", ("b", "a"))


@pytest.mark.parametrize("scope", ["a  b", " a", "a ", 'a"', "a\\", "a\tb", "é", "a" * 129, " ".join("a" * 65)])
def test_what_is_no_scope_list_is_refused(scope: str) -> None:
    with pytest.raises(GateError) as caught:
        parse_wanted({"resource": "r", "scope": scope})
    assert caught.value.code is ErrorCode.SCOPE_INVALID


def test_no_resources_and_no_scopes_allow_nothing() -> None:
    with pytest.raises(GateError) as caught:
        verify_wanted(Wanted("r", ()), frozenset(), frozenset())
    assert caught.value.code is ErrorCode.RESOURCE_INVALID
    with pytest.raises(GateError) as caught:
        verify_wanted(Wanted("r", ("s",)), frozenset({"r"}), frozenset())
    assert caught.value.code is ErrorCode.SCOPE_INVALID
    verify_wanted(Wanted("r", ()), frozenset({"r"}), frozenset())


@pytest.mark.parametrize("name", [None, "password", "implicit", "Client_Credentials", "client_credentials "])
def test_a_grant_type_that_does_not_exist_is_refused(name: str | None) -> None:
    with pytest.raises(GateError) as caught:
        parse_grant_type({} if name is None else {"grant_type": name})
    expected = ErrorCode.REQUEST_MALFORMED if name is None else ErrorCode.GRANT_UNSUPPORTED
    assert caught.value.code is expected
    assert parse_grant_type({"grant_type": "refresh_token"}) is GrantType.REFRESH_TOKEN


@pytest.mark.parametrize(
    "details",
    [
        "", "{}", "[]", "null", '"mcp_session"', '[{"type":"mcp_session"}]', '[{"type":"other","task":"a"}]',
        '[{"type":"mcp_session","task":"a"},{"type":"mcp_session","task":"b"}]', '[{"type":"mcp_session","task":""}]',
        '[{"type":"mcp_session","task":"a","task":"b"}]', '[{"type":"mcp_session","task":"a","more":1}]',
        '[{"type":"mcp_session","task":["a"]}]', '[{"type":"mcp_session","task":"a b"}]',
        '[{"type":"mcp_session","task":"' + "a" * 64 + '"}]', "[" * 60 + "]" * 60, " " * 3000,
    ],
)  # fmt: skip
def test_authorization_details_are_one_session_or_refused(details: str) -> None:
    with pytest.raises(GateError) as caught:
        parse_details(details)
    assert caught.value.code is ErrorCode.DETAILS_INVALID
    assert parse_details(None) is None
    assert parse_details('[{"task":"quarterly-report","type":"mcp_session"}]') == "quarterly-report"
