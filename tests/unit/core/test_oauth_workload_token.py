"""Tokens of workloads: SPIFFE JWT-SVIDs, Kubernetes service-account tokens and plain JWTs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.issuer import new_key, sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import parse_jwt
from twogate.core.jose.keys import Algorithm, VerificationKey, parse_jwks
from twogate.core.oauth.workload_token import (
    VerifiedWorkload,
    WorkloadIssuer,
    WorkloadKind,
    fits,
    is_trust_domain,
    key_uses,
    trust_domain,
    verify_workload_token,
)

NOW = 1_800_000_000
US = "https://mcp.example.com"
NAMES = frozenset({US, f"{US}/token"})
DOMAIN = "spiffe://example.org"
CLUSTER = "https://kubernetes.default.svc"
FORGE = "https://token.forge.example"
KEY, OTHER_KEY = new_key(), new_key()
ES256 = frozenset({Algorithm.ES256})


def jwks(**members: Any) -> bytes:
    return json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1", **members}]}).encode()


KEYS = parse_jwks(jwks())
ISSUERS = {
    kind: WorkloadIssuer(issuer, kind, ES256, frozenset({"acme"}), 3600)
    for kind, issuer in (
        (WorkloadKind.SPIFFE, DOMAIN),
        (WorkloadKind.KUBERNETES, CLUSTER),
        (WorkloadKind.JWT, FORGE),
    )
}
SERVICE_ACCOUNT = "system:serviceaccount:prod:reporter"
SUBJECTS = {
    WorkloadKind.SPIFFE: f"{DOMAIN}/ns/prod/sa/reporter",
    WorkloadKind.KUBERNETES: SERVICE_ACCOUNT,
    WorkloadKind.JWT: "repo:acme/reports:ref:refs/heads/main",
}
PLATFORM: dict[WorkloadKind, dict[str, Any]] = {
    WorkloadKind.SPIFFE: {},
    WorkloadKind.KUBERNETES: {
        "iss": CLUSTER,
        "kubernetes.io": {
            "namespace": "prod",
            "serviceaccount": {"name": "reporter", "uid": "a3c"},
            "pod": {"name": "reporter-7d", "uid": "b4d"},
        },
    },
    WorkloadKind.JWT: {"iss": FORGE},
}
KINDS = list(WorkloadKind)


def token(kind: WorkloadKind, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {
        "sub": SUBJECTS[kind],
        "aud": [US],
        "iat": NOW - 10,
        "exp": NOW + 3590,
        **PLATFORM[kind],
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return sign({"alg": "ES256", "kid": "k1", **(header or {})}, claims, KEY, "ES256")


def verify(
    kind: WorkloadKind,
    text: str,
    *,
    keys: tuple[VerificationKey, ...] = KEYS,
    proof: str | None = None,
    now: int = NOW,
) -> VerifiedWorkload:
    return verify_workload_token(parse_jwt(text), ISSUERS[kind], keys, NAMES, proof, now)


def refusal(kind: WorkloadKind, text: str, **how: Any) -> ErrorCode:
    with pytest.raises(GateError) as caught:
        verify(kind, text, **how)
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("audience", [US, [US], f"{US}/token"])
def test_a_token_for_us_names_its_workload(kind: WorkloadKind, audience: object) -> None:
    assert verify(kind, token(kind, aud=audience)) == VerifiedWorkload(ISSUERS[kind].issuer, SUBJECTS[kind], NOW + 3590)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/jwt"])
def test_a_type_may_say_that_it_is_a_jwt(kind: WorkloadKind, typ: str) -> None:
    assert verify(kind, token(kind, {"typ": typ})).subject == SUBJECTS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "typ", ["at+jwt", "oauth-id-jag+jwt", "client-authentication+jwt", "dpop+jwt", "logout+jwt", "wit+jwt", ""]
)
def test_every_other_type_is_another_tokens(kind: WorkloadKind, typ: str) -> None:
    assert refusal(kind, token(kind, {"typ": typ})) is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": None}, ErrorCode.CLAIM_MISSING),
        ({"aud": "https://kubernetes.default.svc.cluster.local"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"aud": [US, "https://other.example"]}, ErrorCode.AUDIENCE_MISMATCH),
        ({"aud": f"{US}/mcp/files"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"exp": None}, ErrorCode.CLAIM_MISSING),
        ({"exp": NOW - 30}, ErrorCode.TOKEN_EXPIRED),
        ({"exp": NOW + 365 * 86400}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ({"exp": NOW + 60, "iat": NOW - 86400}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
        ({"nbf": NOW + 60}, ErrorCode.TOKEN_NOT_YET_VALID),
        ({"sub": None}, ErrorCode.CLAIM_MISSING),
        ({"sub": ""}, ErrorCode.CLAIM_INVALID),
        ({"sub": ["a"]}, ErrorCode.CLAIM_INVALID),
        ({"cnf": {"jkt": "proof"}}, ErrorCode.TOKEN_BINDING_REFUSED),
        ({"cnf": None, "x": 1, "cnf ": 1}, None),
    ],
)
def test_a_claim_that_is_not_as_it_must_be_is_refused(
    kind: WorkloadKind, changes: dict[str, Any], code: ErrorCode | None
) -> None:
    if code is None:
        assert verify(kind, token(kind, **changes)).subject == SUBJECTS[kind]
    else:
        assert refusal(kind, token(kind, **changes)) is code


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_token_is_good_with_the_proof_of_its_key_and_of_no_other(kind: WorkloadKind) -> None:
    bound = token(kind, cnf={"jkt": "thumb"})
    assert verify(kind, bound, proof="thumb").subject == SUBJECTS[kind]
    assert refusal(kind, bound, proof="other") is ErrorCode.TOKEN_BINDING_REFUSED
    more = token(kind, cnf={"jkt": "thumb", "x5t#S256": "certificate"})
    assert refusal(kind, more, proof="thumb") is ErrorCode.TOKEN_BINDING_REFUSED


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_by_another_key_is_refused(kind: WorkloadKind) -> None:
    other = parse_jwks(json.dumps({"keys": [{**OTHER_KEY.as_dict(private=False), "kid": "k1"}]}).encode())
    assert refusal(kind, token(kind), keys=other) is ErrorCode.SIGNATURE_INVALID
    assert refusal(kind, token(kind, {"kid": "k2"})) is ErrorCode.KEY_UNKNOWN


@pytest.mark.parametrize("kind", [WorkloadKind.KUBERNETES, WorkloadKind.JWT])
@pytest.mark.parametrize("issuer", [None, "https://other.example", CLUSTER + "/", 5])
def test_the_verified_issuer_is_the_selected_one(kind: WorkloadKind, issuer: object) -> None:
    assert refusal(kind, token(kind, iss=issuer)) is ErrorCode.ISSUER_UNKNOWN


def test_what_issuer_a_jwt_svid_says_it_has_means_nothing() -> None:
    kind = WorkloadKind.SPIFFE
    assert verify(kind, token(kind, iss="https://oidc.example.org")).issuer == DOMAIN


@pytest.mark.parametrize(
    "subject",
    [
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/a//b",
        "spiffe://example.org/a/",
        "spiffe://example.org/../b",
        "spiffe://example.org/a/.",
        "spiffe://example.org/a%2fb",
        "spiffe://example.org/a?b",
        "spiffe://example.org:443/a",
        "spiffe://evil@example.org/a",
        "spiffe://EXAMPLE.org/a",
        "SPIFFE://example.org/a",
        "spiffe://example.org.evil/a",
        "spiffe://evil/example.org/a",
        "https://example.org/a",
        "spiffe://other.org/ns/prod/sa/reporter",
    ],
)
def test_a_subject_that_is_no_spiffe_id_of_this_domain_is_refused(subject: str) -> None:
    kind = WorkloadKind.SPIFFE
    assert refusal(kind, token(kind, sub=subject)) is ErrorCode.CLAIM_INVALID
    assert trust_domain(subject) in (None, "spiffe://example.org.evil", "spiffe://evil", "spiffe://other.org")


@pytest.mark.parametrize(
    ("subject", "domain"),
    [
        ("spiffe://example.org/a", DOMAIN),
        ("spiffe://example.org/a/b.c/d-e_F", DOMAIN),
        ("spiffe://example.org/...", DOMAIN),
        (None, None),
        ("system:serviceaccount:prod:reporter", None),
    ],
)
def test_a_spiffe_id_says_its_trust_domain(subject: str | None, domain: str | None) -> None:
    assert trust_domain(subject) == domain


@pytest.mark.parametrize(
    "claims",
    [
        {"kubernetes.io": None},
        {"kubernetes.io": {}},
        {"kubernetes.io": {"namespace": "prod"}},
        {"kubernetes.io": {"namespace": "dev", "serviceaccount": {"name": "reporter"}}},
        {"kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "admin"}}},
        {"sub": "system:serviceaccount:prod"},
        {"sub": "system:serviceaccount:prod:reporter:x"},
        {"sub": "system:node:reporter"},
        {"sub": "system:serviceaccount:prod:Reporter"},
    ],
)
def test_a_service_account_that_its_cluster_does_not_confirm_is_refused(claims: dict[str, Any]) -> None:
    kind = WorkloadKind.KUBERNETES
    assert refusal(kind, token(kind, **claims)) is ErrorCode.CLAIM_INVALID


def test_an_issuer_without_algorithms_or_tenants_is_a_mistake_of_ours() -> None:
    for algorithms, tenants, lifetime in (
        (frozenset[Algorithm](), frozenset({"acme"}), 60),
        (ES256, frozenset[str](), 60),
        (ES256, frozenset({"acme"}), 0),
    ):
        with pytest.raises(ValueError, match="needs a name"):
            WorkloadIssuer(DOMAIN, WorkloadKind.SPIFFE, algorithms, tenants, lifetime)


@pytest.mark.parametrize(("issuer", "kind"), [(CLUSTER, WorkloadKind.SPIFFE), (DOMAIN, WorkloadKind.KUBERNETES)])
def test_only_a_trust_domain_is_of_the_kind_spiffe(issuer: str, kind: WorkloadKind) -> None:
    with pytest.raises(ValueError, match="trust domain"):
        WorkloadIssuer(issuer, kind, ES256, frozenset({"acme"}), 60)


def test_names_of_trust_domains_are_lower_case_and_have_no_path() -> None:
    assert is_trust_domain("spiffe://prod.example.org")
    for name in ("spiffe://", "spiffe://A", "spiffe://a/b", "https://a", "spiffe://a:1", "spiffe://a\n"):
        assert not is_trust_domain(name)


def test_a_subject_fits_its_kind_of_issuer() -> None:
    assert fits(WorkloadKind.SPIFFE, DOMAIN, f"{DOMAIN}/a")
    assert not fits(WorkloadKind.SPIFFE, DOMAIN, "spiffe://other.org/a")
    assert fits(WorkloadKind.KUBERNETES, CLUSTER, SERVICE_ACCOUNT)
    assert not fits(WorkloadKind.KUBERNETES, CLUSTER, "reporter")
    assert fits(WorkloadKind.JWT, FORGE, "anything")


def test_in_a_spiffe_bundle_only_keys_for_jwt_svids_count() -> None:
    uses = key_uses(WorkloadKind.SPIFFE)
    assert len(parse_jwks(jwks(use="jwt-svid"), uses)) == 1
    assert len(parse_jwks(jwks(use="sig"), uses)) == 1
    assert parse_jwks(jwks(use="x509-svid"), uses) == ()
    assert parse_jwks(jwks(use="enc"), uses) == ()
    assert parse_jwks(jwks(use=["jwt-svid"]), uses) == ()
    assert parse_jwks(jwks(use="jwt-svid"), key_uses(WorkloadKind.KUBERNETES)) == ()
