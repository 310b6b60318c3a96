"""The one credential of a request."""

from __future__ import annotations

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.credential import BearerToken, parse_credential


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_one_bearer_token_is_the_credential(scheme: str) -> None:
    # RFC 9110 section 11.1: the scheme is case-insensitive. RFC 6750 section 2.1: b64token.
    assert parse_credential({"authorization": f"{scheme} aZ09-._~+/=="}).unverified_token == "aZ09-._~+/=="


def test_no_authorization_is_a_missing_credential() -> None:
    with pytest.raises(GateError) as refusal:
        parse_credential({"cookie": "token=abc", "content-type": "application/json"})
    assert refusal.value.code is ErrorCode.CREDENTIAL_MISSING


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  abc",
        " Bearer abc",
        "Bearer abc ",
        "Bearer abc\n",
        "Bearer\tabc",
        "Bearer abc, Bearer def",
        "Bearer abc,def",
        "Bearer a=b",
        "Bearer äbc",
        "Bearerabc",
        "Basic YTpi",
        "DPoP abc",
        "Negotiate abc",
        "abc",
    ],
)
def test_anything_else_in_authorization_is_refused(value: str) -> None:
    with pytest.raises(GateError) as refusal:
        parse_credential({"authorization": value})
    assert refusal.value.code is ErrorCode.CREDENTIAL_AMBIGUOUS
    assert "abc" not in refusal.value.debug


def test_a_token_of_the_dpop_scheme_comes_with_its_proof() -> None:
    assert parse_credential({"authorization": "dpop abc", "dpop": "x"}) == BearerToken("abc", "x")
    for headers in ({"authorization": "Bearer abc", "dpop": "x"}, {"authorization": "DPoP a b", "dpop": "x"}):
        with pytest.raises(GateError) as refusal:
            parse_credential(headers)
        assert refusal.value.code is ErrorCode.CREDENTIAL_AMBIGUOUS
    with pytest.raises(GateError) as refusal:
        parse_credential({"dpop": "x"})
    assert refusal.value.code is ErrorCode.CREDENTIAL_MISSING


@pytest.mark.parametrize(
    "name",
    [
        "signature", "signature-input", "x-forwarded-client-cert", "client-cert", "client-cert-chain",
        "ssl-client-cert", "x-ssl-client-cert", "x-client-cert", "x-api-key",
    ],
)  # fmt: skip
@pytest.mark.parametrize("token", [{}, {"authorization": "Bearer abc"}], ids=["alone", "beside a token"])
def test_another_credential_or_proof_is_refused_not_ignored(name: str, token: dict[str, str]) -> None:
    with pytest.raises(GateError) as refusal:
        parse_credential({**token, name: "secret"})
    assert refusal.value.code is ErrorCode.CREDENTIAL_AMBIGUOUS
    assert "secret" not in refusal.value.debug


def test_a_token_does_not_show_itself() -> None:
    assert "abc" not in repr(BearerToken("abc"))
    assert "abc" not in f"{BearerToken('abc')}"
