"""The one table of HTTP answers."""

from __future__ import annotations

import json
import re

import pytest

from twogate.core.errors import FACES, GATE_ONE, ErrorCode
from twogate.web.errors import HTTP_FACES, http_status, oauth_error, www_authenticate

METADATA = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp/files"
DESCRIPTION = re.compile(r"[ !#-\[\]-~]+")


def test_every_error_code_has_an_http_face_and_a_public_face() -> None:
    assert set(HTTP_FACES) == set(ErrorCode) == set(FACES)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_answer_is_well_formed(code: ErrorCode) -> None:
    error = oauth_error(code)
    body = json.loads(error.body)
    assert 400 <= error.status <= 599
    assert error.headers["Cache-Control"] == "no-store"
    assert DESCRIPTION.fullmatch(body["error_description"])
    assert re.fullmatch(r"[a-z_]+", body["error"])
    challenge = www_authenticate(code, METADATA)
    assert challenge is None or challenge.endswith(f'resource_metadata="{METADATA}"')


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_bearer_challenge_comes_with_every_refusal_that_another_token_would_cure(code: ErrorCode) -> None:
    at_the_token_endpoint = {
        ErrorCode.CLIENT_INVALID,
        ErrorCode.ASSERTION_REPLAYED,
        ErrorCode.REGISTRATION_REFUSED,
        ErrorCode.LOGIN_REFUSED,
        ErrorCode.PASSKEY_REFUSED,
    }
    curable = FACES[code].jsonrpc == GATE_ONE or code is ErrorCode.SCOPE_INSUFFICIENT
    assert (www_authenticate(code, METADATA) is not None) == (curable and code not in at_the_token_endpoint)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_codes_that_share_a_public_face_share_their_http_face(code: ErrorCode) -> None:
    assert {HTTP_FACES[other] for other in ErrorCode if FACES[other] is FACES[code]} == {HTTP_FACES[code]}


def test_a_missing_credential_is_challenged_without_an_error_word() -> None:
    # RFC 6750 section 3.1: "the resource server SHOULD NOT include an error code"
    assert www_authenticate(ErrorCode.CREDENTIAL_MISSING, METADATA, ["b", "a"]) == (
        f'Bearer scope="a b", resource_metadata="{METADATA}"'
    )


def test_a_scope_shortfall_is_403_and_names_the_scopes() -> None:
    assert http_status(ErrorCode.SCOPE_INSUFFICIENT) == 403
    assert www_authenticate(ErrorCode.SCOPE_INSUFFICIENT, METADATA, ["reports"]) == (
        'Bearer error="insufficient_scope", error_description="The access token lacks a scope that covers this call.",'
        f' scope="reports", resource_metadata="{METADATA}"'
    )


def test_an_expired_token_is_401_invalid_token() -> None:
    challenge = www_authenticate(ErrorCode.TOKEN_EXPIRED, METADATA)
    assert http_status(ErrorCode.TOKEN_EXPIRED) == 401
    assert challenge is not None
    assert challenge.startswith('Bearer error="invalid_token", ')


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\r\nb", "é"])
def test_a_value_that_would_break_out_of_its_quotes_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="quoted string"):
        www_authenticate(ErrorCode.TOKEN_EXPIRED, METADATA, [value])
    with pytest.raises(ValueError, match="quoted string"):
        www_authenticate(ErrorCode.TOKEN_EXPIRED, METADATA + value)
