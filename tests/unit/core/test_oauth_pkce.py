from __future__ import annotations

from functools import partial

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.pkce import parse_challenge, parse_verifier, verify_pkce

# RFC 7636 appendix B.
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_verifier_of_the_rfc_fits_its_challenge() -> None:
    assert parse_challenge(CHALLENGE, "S256") == CHALLENGE
    assert parse_verifier(VERIFIER) == VERIFIER
    verify_pkce(VERIFIER, CHALLENGE)


@pytest.mark.parametrize(
    "verifier", [VERIFIER[:-1] + "l", VERIFIER + "A", VERIFIER.lower(), CHALLENGE, "a" * 43, "~" * 128]
)
def test_any_other_verifier_is_refused(verifier: str) -> None:
    with pytest.raises(GateError) as refused:
        verify_pkce(verifier, CHALLENGE)
    assert refused.value.code is ErrorCode.GRANT_INVALID


def test_the_challenge_itself_is_no_verifier_because_plain_does_not_exist() -> None:
    with pytest.raises(GateError) as refused:
        verify_pkce(CHALLENGE, CHALLENGE)
    assert refused.value.code is ErrorCode.GRANT_INVALID


@pytest.mark.parametrize(
    ("challenge", "method"),
    [
        (None, None),
        (None, "S256"),
        # Left out, it would be plain (RFC 7636 section 4.3).
        (CHALLENGE, None),
        (CHALLENGE, "plain"),
        (CHALLENGE, "s256"),
        (CHALLENGE, "S256 "),
        (CHALLENGE, ""),
        ("", "S256"),
        (CHALLENGE[:-1], "S256"),
        (CHALLENGE + "A", "S256"),
        (CHALLENGE + "=", "S256"),
        (CHALLENGE + "\n", "S256"),
        # Not the encoding of 32 bytes: the last digit has bits that no byte holds.
        (CHALLENGE[:-1] + "N", "S256"),
        (CHALLENGE.replace("-", "+"), "S256"),
        (CHALLENGE[:-1] + "é", "S256"),
    ],
)
def test_a_challenge_that_is_not_s256_is_refused(challenge: str | None, method: str | None) -> None:
    with pytest.raises(GateError) as refused:
        parse_challenge(challenge, method)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


@pytest.mark.parametrize("verifier", ["a" * 43, "Z" * 128, "-._~" * 11])
def test_a_verifier_has_43_to_128_unreserved_characters(verifier: str) -> None:
    assert parse_verifier(verifier) == verifier


@pytest.mark.parametrize(
    "verifier",
    [None, "", "a" * 42, "a" * 129, "a" * 42 + "+", "a" * 42 + " ", "a" * 43 + "\n", "é" * 43, "a" * 42 + "%"],
)
def test_a_malformed_verifier_is_refused(verifier: str | None) -> None:
    with pytest.raises(GateError) as refused:
        parse_verifier(verifier)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


def test_a_refusal_does_not_quote_what_was_presented() -> None:
    for parse in (parse_verifier, partial(parse_challenge, method="S256")):
        with pytest.raises(GateError) as refused:
            parse("s3cret!")
        assert refused.value.code is ErrorCode.REQUEST_MALFORMED
        assert "s3cret" not in refused.value.debug
