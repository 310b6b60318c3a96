"""Finding the one client authentication of a request, and judging a secret."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import UnverifiedJwt
from twogate.core.oauth.client_auth import (
    AuthMethod,
    PresentedAssertion,
    PresentedSecret,
    parse_presented,
    verify_secret,
)


def header(pair: bytes) -> str:
    return "Basic " + b64encode(pair).decode()


def test_the_example_of_rfc_6749_is_read() -> None:
    # RFC 6749 section 2.3.1
    presented = parse_presented(["Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"], {})
    assert presented == PresentedSecret(AuthMethod.BASIC, "s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw")


def test_the_scheme_is_case_insensitive_and_the_secret_may_hold_colons() -> None:
    assert parse_presented(["bASIC " + b64encode(b"a:b:c").decode()], {}) == PresentedSecret(
        AuthMethod.BASIC, "a", "b:c"
    )


def test_a_body_secret_names_its_client() -> None:
    form = {"client_id": "a", "client_secret": "b"}
    assert parse_presented([], form) == PresentedSecret(AuthMethod.POST, "a", "b")


def test_a_body_secret_without_client_is_refused() -> None:
    with pytest.raises(GateError) as caught:
        parse_presented([], {"client_secret": "b"})
    assert caught.value.code is ErrorCode.CLIENT_INVALID


def test_the_same_client_id_may_stand_beside_basic() -> None:
    assert parse_presented([header(b"a:b")], {"client_id": "a"}).unverified_client_id == "a"


@pytest.mark.parametrize("client_id", ["é", "a\n", "a" * 256])
def test_a_client_id_outside_rfc_6749s_alphabet_is_refused(client_id: str) -> None:
    with pytest.raises(GateError) as caught:
        parse_presented([], {"client_id": client_id, "client_secret": "b"})
    assert caught.value.code is ErrorCode.CLIENT_INVALID


DEBUG_TEXTS = {
    "Authorization is not Basic within the size cap",
    "Basic without a colon",
    "Basic is not base64 of form-encoded ASCII",
    "client id or secret missing, too long or not printable ASCII",
}


@given(st.text(max_size=60) | st.binary(max_size=60).map(header))
@example("Basic " + "A" * 3000)
def test_any_header_is_read_or_refused_without_being_quoted(value: str) -> None:
    refusal: GateError | None = None
    try:
        parse_presented([value], {})
    except GateError as error:
        refusal = error
    assert refusal is None or (refusal.code is ErrorCode.CLIENT_INVALID and refusal.debug in DEBUG_TEXTS)


def test_either_secret_of_a_rotation_is_good_and_no_other() -> None:
    digests = [hashlib.sha256(secret).digest() for secret in (b"old", b"new")]
    verify_secret("old", digests)
    verify_secret("new", digests)
    for secret in ("", "Old", "old "):
        with pytest.raises(GateError) as caught:
            verify_secret(secret, digests)
        assert caught.value.code is ErrorCode.CLIENT_INVALID


def test_an_unknown_client_is_compared_in_constant_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(len(right))
        return True  # Even a match must not let an unknown client in.

    monkeypatch.setattr("twogate.core.oauth.client_auth.hmac.compare_digest", compare)
    with pytest.raises(GateError) as caught:
        verify_secret("x", ())
    assert caught.value.code is ErrorCode.CLIENT_INVALID
    assert compared == [32]
    verify_secret("x", [b"1" * 32, b"2" * 32])
    assert compared == [32, 32, 32]


def test_what_was_presented_does_not_show_its_secret() -> None:
    assert "hidden" not in repr(PresentedSecret(AuthMethod.POST, "a", "hidden"))


def test_a_presented_assertion_does_not_show_itself() -> None:
    jwt = UnverifiedJwt("hidden.in.log", "ES256", None, None, "c")
    assert "hidden" not in repr(PresentedAssertion("c", jwt))
