"""DPoP proofs: the RFC's own example, and every way in which a proof is none (RFC 9449 section 4.3)."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from dpoplab import TOKEN_URL, Prover
from harness.issuer import sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.dpop import ALGORITHMS, MAX_AGE, MAX_JTI, MAX_PROOF, verify_proof

NOW = 1_800_000_000
PROVER = Prover()

# RFC 9449 figure 2 and the thumbprint of its section 6.1.
RFC_PROOF = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0Rs"
    "cEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2"
    "In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2Vu"
    "IiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZ"
    "T3Lg"
)


def reason(proof: str, method: str = "POST", uri: str = TOKEN_URL, now: int = NOW) -> str:
    with pytest.raises(GateError) as refused:
        verify_proof(proof, method, uri, now)
    assert refused.value.code is ErrorCode.DPOP_INVALID
    return refused.value.debug


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_the_rfcs_own_example_is_good_and_its_key_has_the_rfcs_thumbprint() -> None:
    proof = verify_proof(RFC_PROOF, "POST", "https://server.example.com/token", 1562262616)
    assert proof.thumbprint == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert (proof.jti, proof.issued_at, proof.nonce) == ("-BwC3ESc6acc2lTc", 1562262616, None)


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519", "EdDSA", "RS256", "PS256"])
def test_a_proof_by_each_algorithm_gives_the_thumbprint_of_its_key(algorithm: str) -> None:
    prover = Prover(algorithm)
    proof = verify_proof(prover.proof(NOW, "n", jti="j", ath="a"), "POST", TOKEN_URL, NOW)
    assert (proof.thumbprint, proof.jti, proof.nonce) == (prover.thumbprint, "j", "n")
    assert proof.access_token_digest == "a"


def test_no_algorithm_is_symmetric() -> None:
    assert {algorithm.value for algorithm in ALGORITHMS} == {"ES256", "Ed25519", "EdDSA", "RS256", "PS256"}


@pytest.mark.parametrize(
    "htu", [TOKEN_URL, TOKEN_URL + "?a=b", TOKEN_URL + "#f", TOKEN_URL + "?a=b#f", TOKEN_URL + "#?"]
)
def test_query_and_fragment_of_the_address_do_not_count(htu: str) -> None:
    assert verify_proof(PROVER.proof(NOW, htu=htu), "POST", TOKEN_URL, NOW).thumbprint == PROVER.thumbprint


@pytest.mark.parametrize("away", [-MAX_AGE, 0, MAX_AGE])
def test_a_proof_is_good_for_five_minutes_by_either_clock(away: int) -> None:
    assert verify_proof(PROVER.proof(NOW + away), "POST", TOKEN_URL, NOW).issued_at == NOW + away


@pytest.mark.parametrize("iat", [NOW - MAX_AGE - 1, NOW + MAX_AGE + 1, None, str(NOW), True, -1, 2**60])
def test_a_proof_of_another_time_or_none_is_refused(iat: object) -> None:
    assert "iat" in reason(PROVER.proof(NOW, iat=iat))


@pytest.mark.parametrize(
    "changes",
    [
        {"htm": "GET"}, {"htm": "post"}, {"htm": None}, {"htm": ["POST"]},
        {"htu": None}, {"htu": TOKEN_URL + "/"}, {"htu": TOKEN_URL.upper()}, {"htu": [TOKEN_URL]},
        {"htu": "https://evil.example/token"}, {"htu": TOKEN_URL.replace("/token", "/par")},
        {"htu": TOKEN_URL.replace("https", "http")}, {"htu": "/token"}, {"htu": TOKEN_URL + "%3Fa"},
        {"htu": TOKEN_URL.replace("https://", "https://x@")},
    ],
)  # fmt: skip
def test_a_proof_for_another_request_is_refused(changes: dict[str, object]) -> None:
    assert "another" in reason(PROVER.proof(NOW, **changes))


@pytest.mark.parametrize("jti", [None, "", 7, ["j"], "j" * (MAX_JTI + 1), "a\nb"])
def test_a_proof_without_a_sensible_jti_is_refused(jti: object) -> None:
    assert "jti" in reason(PROVER.proof(NOW, jti=jti))


@pytest.mark.parametrize("claim", ["nonce", "ath"])
def test_a_claim_of_another_type_is_refused(claim: str) -> None:
    assert claim in reason(PROVER.proof(NOW, **{claim: 7}))


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "dpop", "DPOP+JWT", None, 7, "application/dpop+jwt"])
def test_another_type_of_token_is_no_proof(typ: object) -> None:
    assert "typ" in reason(PROVER.proof(NOW, header={"typ": typ}))


@pytest.mark.parametrize(
    "name", ["jku", "x5u", "x5c", "x5t", "crit", "b64", "zip", "enc", "epk", "kid2", "JWK", "jwks"]
)
def test_what_names_another_key_or_extends_the_signature_is_refused(name: str) -> None:
    value = ["exp"] if name == "crit" else "https://evil.example"
    head, body, signature = PROVER.proof(NOW).split(".")
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": PROVER.jwk, name: value}
    assert "header parameters" in reason(f"{part(header)}.{body}.{signature}")
    assert head


@pytest.mark.parametrize("alg", ["none", "HS256", "RS512", "ES384", "es256", "", None, 7])
def test_another_algorithm_is_refused(alg: object) -> None:
    _, body, signature = PROVER.proof(NOW).split(".")
    header = {"typ": "dpop+jwt", "alg": alg, "jwk": PROVER.jwk}
    assert reason(f"{part(header)}.{body}.{signature}") == "alg is not accepted"


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
@pytest.mark.parametrize("value", ["AQAB", "", None])
def test_a_private_key_is_refused_whatever_it_holds(member: str, value: str | None) -> None:
    header = {"jwk": {**PROVER.jwk, member: value}}
    assert reason(PROVER.proof(NOW, header=header)) == "jwk holds a private key"


def test_the_whole_private_key_is_refused() -> None:
    assert reason(PROVER.proof(NOW, header={"jwk": PROVER.key.as_dict(private=True)})) == "jwk holds a private key"


@pytest.mark.parametrize(
    "jwk",
    [
        None, 7, "key", [], {}, {"kty": "EC"}, {"kty": "oct"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {**ECKey.generate_key("P-384").as_dict(private=False)},
        {**Prover("Ed25519").jwk}, {**Prover("RS256").jwk},
        {**PROVER.jwk, "use": "enc"}, {**PROVER.jwk, "alg": "ECDH-ES"}, {**PROVER.jwk, "crv": "P-521"},
        {**PROVER.jwk, "x": 7}, {**PROVER.jwk, "kty": ["EC"]},
    ],
)  # fmt: skip
def test_what_is_no_public_key_for_the_algorithm_is_refused(jwk: object) -> None:
    assert "jwk" in reason(PROVER.proof(NOW, header={"jwk": jwk}))


def test_a_proof_signed_by_another_key_than_the_one_it_shows_is_refused() -> None:
    assert "signature" in reason(PROVER.proof(NOW, header={"jwk": Prover().jwk}))


def test_a_symmetric_signature_with_the_public_key_is_refused() -> None:
    header = {"typ": "dpop+jwt", "alg": "HS256", "jwk": PROVER.jwk}
    signed = f"{part(header)}.{part({'iat': NOW})}"
    signature = hmac.digest(json.dumps(PROVER.jwk).encode(), signed.encode(), "sha256")
    assert reason(f"{signed}.{part(signature)}") == "alg is not accepted"


def test_an_rsa_key_that_is_too_short_too_long_or_too_slow_is_refused() -> None:
    number = 2**1023 + 1
    prover = Prover("RS256")
    long = {**prover.jwk, "n": part(b"\xc1" + bytes(639) + b"\x01")}
    slow = {**prover.jwk, "e": part(b"\x01" + bytes(3) + b"\x01")}
    short = {**prover.jwk, "n": part(number.to_bytes(128))}
    assert "caps" in reason(prover.proof(NOW, header={"jwk": short}))
    assert "caps" in reason(prover.proof(NOW, header={"jwk": long}))
    assert "caps" in reason(prover.proof(NOW, header={"jwk": slow}))


def test_one_key_has_one_spelling_so_that_it_has_one_thumbprint() -> None:
    # The last character of 32 bytes has two bits that say nothing.
    last = "AEIMQUYcgkosw048".index(PROVER.jwk["x"][-1])
    other = {**PROVER.jwk, "x": PROVER.jwk["x"][:-1] + "BFJNRVZdhlptx159"[last]}
    zeros = Prover("RS256")
    longer = {**zeros.jwk, "e": "AAEAAQ"}
    assert "jwk" in reason(PROVER.proof(NOW, header={"jwk": other}))
    assert "canonical" in reason(zeros.proof(NOW, header={"jwk": longer}))


@pytest.mark.parametrize("kind", ["header", "jwk", "claims"])
def test_a_member_that_is_named_twice_is_refused(kind: str) -> None:
    jwk = json.dumps(PROVER.jwk)
    twice = {
        "header": f'{{"typ":"dpop+jwt","alg":"ES256","alg":"ES256","jwk":{jwk}}}',
        "jwk": f'{{"typ":"dpop+jwt","alg":"ES256","jwk":{jwk[:-1]},"kty":"EC"}}}}',
    }
    if kind == "claims":
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": PROVER.jwk}
        claims = f'{{"jti":"a","htm":"POST","htm":"POST","htu":"{TOKEN_URL}","iat":{NOW}}}'.encode()
        proof = sign(header, claims, PROVER.key, "ES256")
    else:
        _, body, signature = PROVER.proof(NOW).split(".")
        proof = f"{part(twice[kind].encode())}.{body}.{signature}"
    assert "token_malformed" in reason(proof)


@pytest.mark.parametrize(
    "proof",
    ["", "a.b", "a.b.c.d", PROVER.proof(NOW) + ", " + PROVER.proof(NOW), " " + PROVER.proof(NOW),
     PROVER.proof(NOW) + "\n", PROVER.proof(NOW) + "=", PROVER.proof(NOW, jti="j" * MAX_PROOF), "..",
     part([]) + "." + part({}) + ".AA", part(b"\xff") + "." + part({}) + ".AA"],
)  # fmt: skip
def test_what_is_no_compact_jwt_within_the_caps_is_refused(proof: str) -> None:
    assert reason(proof)


@given(st.text(max_size=300) | st.from_regex(r"[\w-]{1,60}\.[\w-]{1,60}\.[\w-]{1,60}", fullmatch=True))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    assert reason(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "use", "alg", "key_ops", "kid", "x5c"]),
        st.sampled_from(["EC", "P-256", "RSA", "OKP", "Ed25519", "AQAB", "oct"]) | _JSON,
    )
)
def test_no_jwk_does_anything_but_be_refused(jwk: dict[str, Any]) -> None:
    _, body, signature = PROVER.proof(NOW).split(".")
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
    assert reason(f"{part(header)}.{body}.{signature}")


@given(st.sampled_from(["jti", "htm", "htu", "iat", "nonce", "ath"]), _JSON)
def test_no_claim_does_anything_but_be_refused_or_accepted(name: str, value: object) -> None:
    proof = PROVER.proof(NOW, **{name: value})
    outcome: object
    try:
        outcome = verify_proof(proof, "POST", TOKEN_URL, NOW).thumbprint
    except GateError as error:
        outcome = error.code
    assert outcome in (PROVER.thumbprint, ErrorCode.DPOP_INVALID)
