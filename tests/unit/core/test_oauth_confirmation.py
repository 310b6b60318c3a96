"""What a token is bound to, and whether exactly that was proven."""

from __future__ import annotations

import pytest

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.confirmation import (
    NOTHING_PROVEN,
    UNBOUND,
    ClientCertificate,
    Confirmation,
    Proven,
    parse_confirmation,
    verify_confirmation,
)

NOW = 1_800_000_000
# RFC 8705 section 3.1 and RFC 9449 section 6.1.
CERTIFICATE = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"
KEY = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def shown(thumbprint: str = CERTIFICATE, not_after: int = NOW) -> ClientCertificate:
    return ClientCertificate(thumbprint, not_after)


@pytest.mark.parametrize(
    ("cnf", "bound"),
    [
        ({"x5t#S256": CERTIFICATE}, Confirmation(certificate=CERTIFICATE)),
        ({"jkt": KEY}, Confirmation(key=KEY)),
        ({"jkt": KEY, "x5t#S256": CERTIFICATE}, Confirmation(KEY, CERTIFICATE)),
    ],
)
def test_a_confirmation_is_a_key_a_certificate_or_both(cnf: object, bound: Confirmation) -> None:
    assert parse_confirmation({"cnf": cnf}) == bound
    assert parse_confirmation({"sub": "x"}) is UNBOUND


@pytest.mark.parametrize(
    "cnf",
    [None, {}, [], "", 0, {"kid": "k"}, {"jkt": KEY, "jwk": {}}, {"jkt": None}, {"x5t#S256": f"{CERTIFICATE}="},
     {"x5t#S256": "a b"}, {"x5t#S256": "x" * 129}, {"jkt": KEY, "x5t#S256": ""}],
)  # fmt: skip
def test_what_is_not_understood_is_refused(cnf: object) -> None:
    with pytest.raises(GateError) as refused:
        parse_confirmation({"cnf": cnf})
    assert refused.value.code is ErrorCode.TOKEN_BINDING_REFUSED


PROVEN = {
    "nothing": NOTHING_PROVEN,
    "key": Proven(KEY),
    "certificate": Proven(certificate=shown()),
    "both": Proven(KEY, shown()),
}
BOUND = {
    "nothing": UNBOUND,
    "key": Confirmation(KEY),
    "certificate": Confirmation(certificate=CERTIFICATE),
    "both": Confirmation(KEY, CERTIFICATE),
}


@pytest.mark.parametrize("proven", PROVEN)
@pytest.mark.parametrize("bound", BOUND)
def test_exactly_what_a_token_is_bound_to_must_be_proven(bound: str, proven: str) -> None:
    if bound == proven:
        BOUND[bound].require(PROVEN[proven], NOW)
        return
    with pytest.raises(GateError) as refused:
        BOUND[bound].require(PROVEN[proven], NOW)
    assert refused.value.code is ErrorCode.TOKEN_BINDING_REFUSED


@pytest.mark.parametrize(
    "proven",
    [Proven(KEY.lower(), shown()), Proven(KEY, shown(CERTIFICATE[:-1])), Proven(CERTIFICATE, shown(KEY))],
)
def test_another_key_or_certificate_is_not_the_one(proven: Proven) -> None:
    with pytest.raises(GateError):
        BOUND["both"].require(proven, NOW)


def test_a_certificate_is_good_until_its_last_second() -> None:
    BOUND["certificate"].require(PROVEN["certificate"], NOW)
    with pytest.raises(GateError) as refused:
        BOUND["certificate"].require(PROVEN["certificate"], NOW + 1)
    assert refused.value.code is ErrorCode.TOKEN_BINDING_REFUSED


def test_at_the_authorization_server_a_proof_beside_an_unbound_token_is_for_the_next_one() -> None:
    verify_confirmation({}, KEY)
    verify_confirmation({"cnf": {"jkt": KEY}}, KEY)
    for cnf, proof in (({"jkt": KEY}, None), ({"jkt": KEY}, "x"), ({"x5t#S256": CERTIFICATE}, KEY), ({}, KEY)):
        with pytest.raises(GateError):
            verify_confirmation({"cnf": cnf}, proof)
