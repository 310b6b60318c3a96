"""Authorization requests and responses: what is read, what is refused, and what goes back."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import (
    MAX_REQUEST,
    MAX_STATE,
    REQUEST_URI_PREFIX,
    AuthorizeRequest,
    Parameters,
    Prompt,
    find_redirect_uri,
    parse_client_id,
    parse_parameters,
    parse_request,
    parse_request_uri,
    pushed_parameters,
)
from twogate.core.oauth.authorize_response import code_response, error_response

CALLBACK = "https://app.example/callback"
# RFC 7636 appendix B.
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
FILES = "https://mcp.example.com/mcp/files"
HANDLE = "h" * 43
GOOD = {
    "response_type": "code",
    "client_id": "web",
    "redirect_uri": CALLBACK,
    "state": "xyz",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "resource": FILES,
    "scope": "reports admin",
    "authorization_details": '[{"type":"mcp_session","task":"review"}]',
}


def read(**changes: str | None) -> AuthorizeRequest:
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    parameters = parse_parameters(urlencode(values).encode())
    return parse_request(parameters, "web", CALLBACK, given=True)


def whole_way(parameters: Parameters) -> AuthorizeRequest:
    client_id = parse_client_id(parameters)
    redirect_uri, given = find_redirect_uri(parameters, [CALLBACK])
    return parse_request(parameters, client_id, redirect_uri, given=given)


def refusal(**changes: str | None) -> ErrorCode:
    with pytest.raises(GateError) as refused:
        read(**changes)
    return refused.value.code


def test_a_request_is_read_whole() -> None:
    assert read(dpop_jkt="k" * 43, prompt="login consent", max_age="60") == AuthorizeRequest(
        client_id="web",
        redirect_uri=CALLBACK,
        redirect_uri_given=True,
        code_challenge=CHALLENGE,
        resource=FILES,
        scopes=("reports", "admin"),
        task="review",
        state="xyz",
        proof="k" * 43,
        prompts=(Prompt.LOGIN, Prompt.CONSENT),
        max_age=60,
    )


def test_unknown_parameters_are_ignored_even_if_repeated_and_empty_ones_left_out() -> None:
    encoded = urlencode([*GOOD.items(), ("login_hint", "a"), ("login_hint", "b"), ("prompt", "")]).encode()
    assert parse_request(parse_parameters(encoded), "web", CALLBACK, given=True) == read()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"response_type": None}, ErrorCode.REQUEST_MALFORMED),
        ({"response_type": "token"}, ErrorCode.RESPONSE_TYPE_UNSUPPORTED),
        ({"response_type": "code token"}, ErrorCode.RESPONSE_TYPE_UNSUPPORTED),
        ({"response_type": "Code"}, ErrorCode.RESPONSE_TYPE_UNSUPPORTED),
        ({"response_mode": "form_post"}, ErrorCode.REQUEST_MALFORMED),
        ({"response_mode": "fragment"}, ErrorCode.REQUEST_MALFORMED),
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge": None}, ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge_method": None}, ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge_method": "plain"}, ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge_method": "s256"}, ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge": CHALLENGE + "="}, ErrorCode.REQUEST_MALFORMED),
        ({"code_challenge": CHALLENGE[:-1]}, ErrorCode.REQUEST_MALFORMED),
        ({"resource": None}, ErrorCode.RESOURCE_INVALID),
        ({"scope": "a  b"}, ErrorCode.SCOPE_INVALID),
        ({"authorization_details": "[]"}, ErrorCode.DETAILS_INVALID),
        ({"authorization_details": '[{"type":"payment","task":"review"}]'}, ErrorCode.DETAILS_INVALID),
        ({"dpop_jkt": "short"}, ErrorCode.REQUEST_MALFORMED),
        ({"prompt": "create"}, ErrorCode.REQUEST_MALFORMED),
        ({"prompt": "none login"}, ErrorCode.REQUEST_MALFORMED),
        ({"prompt": "login  consent"}, ErrorCode.REQUEST_MALFORMED),
        ({"max_age": "-1"}, ErrorCode.REQUEST_MALFORMED),
        ({"max_age": "1e3"}, ErrorCode.REQUEST_MALFORMED),
        ({"max_age": "9" * 10}, ErrorCode.REQUEST_MALFORMED),
        ({"state": "s" * (MAX_STATE + 1)}, ErrorCode.REQUEST_MALFORMED),
    ],
)
def test_what_is_wrong_is_refused(changes: dict[str, str | None], code: ErrorCode) -> None:
    assert refusal(**changes) is code


def test_the_largest_state_passes() -> None:
    assert read(state="s" * MAX_STATE).state == "s" * MAX_STATE


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_repeated_parameter_is_refused_even_if_the_second_is_the_same_or_empty(name: str) -> None:
    for value in (GOOD[name], "other", ""):
        parameters = parse_parameters(urlencode([*GOOD.items(), (name, value)]).encode())
        with pytest.raises(GateError) as refused:
            whole_way(parameters)
        expected = ErrorCode.RESOURCE_INVALID if name == "resource" else ErrorCode.PARAMETER_REPEATED
        assert refused.value.code is expected


def test_a_state_that_is_repeated_is_nobodys() -> None:
    assert parse_parameters(b"state=a&state=b").state is None
    assert parse_parameters(b"state=a").state == "a"


def test_a_request_larger_than_its_cap_is_refused() -> None:
    assert parse_parameters(b"a=" + b"x" * (MAX_REQUEST - 2)).values["a"]
    with pytest.raises(GateError) as refused:
        parse_parameters(b"a=" + b"x" * (MAX_REQUEST - 1))
    assert refused.value.code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("encoded", [b"client_id", b"client_id=%ff", b"client_id=%4", b"a=\r\nb", "a=ä".encode()])
def test_what_is_no_query_is_refused(encoded: bytes) -> None:
    with pytest.raises(GateError) as refused:
        parse_parameters(encoded)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


@pytest.mark.parametrize("client_id", ["", "web\n", "wéb", "w" * 1025])
def test_a_client_id_is_printable_ascii(client_id: str) -> None:
    with pytest.raises(GateError) as refused:
        parse_client_id(Parameters({"client_id": client_id} if client_id else {}))
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


class TestRedirectUris:
    def test_one_that_is_presented_is_used(self) -> None:
        found = find_redirect_uri(Parameters({"redirect_uri": CALLBACK}), ["https://app.example/other", CALLBACK])
        assert found == (CALLBACK, True)

    def test_one_may_be_left_out_if_it_is_the_only_one(self) -> None:
        assert find_redirect_uri(Parameters({}), [CALLBACK]) == (CALLBACK, False)
        # Even an empty one is left out (RFC 6749 section 3.1).
        assert find_redirect_uri(parse_parameters(b"redirect_uri="), [CALLBACK]) == (CALLBACK, False)

    def test_the_port_of_this_machine_may_be_another(self) -> None:
        native = "http://127.0.0.1:51004/callback"
        assert find_redirect_uri(Parameters({"redirect_uri": native}), ["http://127.0.0.1/callback"]) == (native, True)

    @pytest.mark.parametrize(
        ("presented", "registered"),
        [
            ("https://app.example/callback/", [CALLBACK]),
            ("https://app.example/callback?x=1", [CALLBACK]),
            ("https://app.example:443/callback", [CALLBACK]),
            ("https://APP.example/callback", [CALLBACK]),
            (None, [CALLBACK, "https://app.example/other"]),
            (None, []),
            (None, ["javascript:alert(1)"]),
            (None, ["https://app.example/callback#fragment"]),
        ],
    )
    def test_anything_else_is_refused(self, presented: str | None, registered: list[str]) -> None:
        with pytest.raises(GateError) as refused:
            find_redirect_uri(Parameters({} if presented is None else {"redirect_uri": presented}), registered)
        assert refused.value.code is ErrorCode.REDIRECT_INVALID


class TestRequestUris:
    def test_the_handle_of_a_pushed_request_is_read(self) -> None:
        assert parse_request_uri(Parameters({"request_uri": REQUEST_URI_PREFIX + HANDLE})) == HANDLE
        assert parse_request_uri(Parameters({})) is None

    @pytest.mark.parametrize(
        "request_uri",
        ["https://evil.example/request.jwt", HANDLE, REQUEST_URI_PREFIX, f"{REQUEST_URI_PREFIX}{HANDLE}x"],
    )
    def test_any_other_address_is_refused_and_never_fetched(self, request_uri: str) -> None:
        with pytest.raises(GateError) as refused:
            parse_request_uri(Parameters({"request_uri": request_uri}))
        assert refused.value.code is ErrorCode.REQUEST_URI_INVALID

    def test_a_pushed_request_is_kept_without_the_clients_credentials(self) -> None:
        form = {**GOOD, "client_secret": "hush", "client_assertion": "a.b.c", "client_assertion_type": "t", "x": "y"}
        assert pushed_parameters(form, "web") == Parameters(GOOD)

    def test_a_pushed_request_names_its_client_although_the_form_did_not(self) -> None:
        form = {name: value for name, value in GOOD.items() if name != "client_id"}
        assert pushed_parameters(form, "web") == Parameters(GOOD)

    def test_a_pushed_request_cannot_name_another(self) -> None:
        with pytest.raises(GateError) as refused:
            pushed_parameters({**GOOD, "request_uri": REQUEST_URI_PREFIX + HANDLE}, "web")
        assert refused.value.code is ErrorCode.REQUEST_MALFORMED

    def test_a_pushed_request_has_the_same_cap(self) -> None:
        with pytest.raises(GateError) as refused:
            pushed_parameters({**GOOD, "scope": "s" * MAX_REQUEST}, "web")
        assert refused.value.code is ErrorCode.TOO_LARGE


class TestFreshness:
    @pytest.mark.parametrize(
        ("changes", "since"),
        [
            ({}, None),
            ({"prompt": "consent"}, None),
            ({"prompt": "login"}, 1000),
            ({"prompt": "select_account"}, 1000),
            ({"max_age": "60"}, 940),
            ({"max_age": "0"}, 1000),
            ({"max_age": "60", "prompt": "login"}, 1000),
        ],
    )
    def test_the_login_must_be_as_fresh_as_was_asked(self, changes: dict[str, str], since: int | None) -> None:
        assert read(**changes).fresh_since(1000) == since


class TestResponses:
    @given(state=st.text(max_size=50), query=st.sampled_from(["", "?a=b", "?a=b&c"]))
    def test_whatever_the_state_is_it_comes_back_and_nothing_else_changes(self, state: str, query: str) -> None:
        url = code_response(CALLBACK + query, "https://mcp.example.com", "the-code", state)
        parts = urlsplit(url)
        assert url.startswith(CALLBACK + query)
        assert url.isascii()
        assert url.isprintable()
        assert not parts.fragment
        read_back = parse_qs(parts.query, keep_blank_values=True)
        assert (read_back["state"], read_back["code"]) == ([state], ["the-code"])
        assert read_back["iss"] == ["https://mcp.example.com"]

    def test_an_error_names_the_issuer_too_and_no_state_that_was_not_given(self) -> None:
        url = error_response(CALLBACK, "https://mcp.example.com", "access_denied", "The person said no.", None)
        assert parse_qs(urlsplit(url).query) == {
            "error": ["access_denied"],
            "error_description": ["The person said no."],
            "iss": ["https://mcp.example.com"],
        }
