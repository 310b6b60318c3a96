"""Tokens of external issuers: algorithms, keys, kinds, audiences, roles and users that are confused on purpose."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey, RSAKey

from harness.issuer import TestIssuer, new_key, sign
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
LOOK_ALIAS, NOTES_ALIAS = "6e74172b-be56-4843-9ff4-e66a39bb12e3", "0a3f4a0e-1c0b-4c59-9d1b-3c2c3b0d1c11"

# Made once: RSA keys take a moment.
KEYS = {algorithm: new_key(algorithm) for algorithm in ALGORITHMS}
TINY_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused


@pytest.fixture
async def second() -> AsyncIterator[TestIssuer]:
    """Another trusted issuer. Its key is called `k1` as well."""
    async with TestIssuer() as made:
        yield made


@pytest.fixture
async def gateway(
    tmp_path: Path,
    issuer: TestIssuer,
    second: TestIssuer,
    upstream: RecordingUpstream,
    other_upstream: RecordingUpstream,
) -> AsyncIterator[Stack]:
    """A gateway that trusts both, the first with every algorithm, tokens of any type, lists of roles, and users."""
    issuer.keys |= {algorithm.lower(): (algorithm, KEYS[algorithm]) for algorithm in ALGORITHMS}
    servers = {"files": {"url": upstream.url}, "notes": {"url": other_upstream.url}}
    settings = settings_for(tmp_path, free_port(), servers, issuer)
    settings["issuers"][0] |= {
        "algorithms": list(ALGORITHMS),
        "types": ["at+jwt", "JWT", "absent"],
        "roles": ["executor", "reader"],
        "audiences": {"/mcp/files": LOOK_ALIAS, "/mcp/notes": NOTES_ALIAS},
        "claims": {
            "agent": "/azp", "tenant": "/tenant", "role": "/realm_access/roles", "scope": "/scp",
            "user": "/uid", "user_optional": True,
        },
    }  # fmt: skip
    settings["issuers"].append(
        {
            "issuer": second.url, "algorithms": ["ES256"], "tenants": ["acme"], "jwks_uri": f"{second.url}/jwks",
            "claims": {"agent": "/azp"},
        }
    )  # fmt: skip
    settings["agents"]["acme/other"]["bindings"] = [{"issuer": second.url, "subject": "robot"}]
    async with running(tmp_path, settings) as made:
        yield made


Forge = Callable[[TestIssuer, TestIssuer, str], str]


def part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signing_input(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"


def signature_of(token: str) -> bytes:
    text = token.rpartition(".")[2]
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def resigned(token: str, change: Callable[[bytes], bytes]) -> str:
    return f"{token.rpartition('.')[0]}.{part(change(signature_of(token)))}"


def with_claims(**claims: Any) -> Forge:
    return lambda issuer, _, audience: issuer.token(audience, **claims)


def untyped(**claims: Any) -> Forge:
    return lambda issuer, _, audience: issuer.token(audience, header={"typ": None}, **claims)


def typed(typ: str, /, **claims: Any) -> Forge:
    return lambda issuer, _, audience: issuer.token(audience, header={"typ": typ}, **claims)


def announced(signed_as: str, said: str, kid: str) -> Forge:
    """A token signed by one algorithm whose header says another, or another key."""
    return lambda issuer, _, audience: sign(
        {"alg": said, "kid": kid, "typ": "at+jwt"}, issuer.claims(audience), KEYS[signed_as], signed_as
    )


def unnamed_rsa(issuer: TestIssuer, _: TestIssuer, audience: str) -> str:
    """An RS256 signature announced as PS256, by a key that says no algorithm and is good for both."""
    jwk = KEYS["RS256"].as_dict(private=False)
    issuer.odd_keys = [{**jwk, "kid": "free", "use": "sig"}]
    header = {"alg": "PS256", "kid": "free", "typ": "at+jwt"}
    return sign(header, issuer.claims(audience), KEYS["RS256"], "RS256")


def hmac_by(secret: Callable[[], bytes], kid: str) -> Forge:
    def forge(issuer: TestIssuer, _: TestIssuer, audience: str) -> str:
        text = signing_input({"alg": "HS256", "kid": kid, "typ": "at+jwt"}, issuer.claims(audience))
        mac = hmac.HMAC(secret(), hashes.SHA256())
        mac.update(text.encode())
        return f"{text}.{part(mac.finalize())}"

    return forge


def rsa_pem() -> bytes:
    key = KEYS["RS256"]
    assert isinstance(key, RSAKey)
    return key.public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def ec_der() -> bytes:
    key = KEYS["ES256"]
    assert isinstance(key, ECKey)
    return key.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def ed_raw() -> bytes:
    return urlsafe_b64decode(f"{KEYS['EdDSA'].as_dict(private=False)['x']}=")


def other_curve(curve: ec.EllipticCurve, name: str, said: str) -> Forge:
    """A good ECDSA signature with SHA-256 by a key of another curve, in the set as what it is or as P-256."""

    def forge(issuer: TestIssuer, _: TestIssuer, audience: str) -> str:
        private = ec.generate_private_key(curve)
        size = (curve.key_size + 7) // 8
        numbers = private.public_key().public_numbers()
        point = {"x": part(numbers.x.to_bytes(size, "big")), "y": part(numbers.y.to_bytes(size, "big"))}
        issuer.odd_keys = [{"kty": "EC", "crv": said, "kid": name, "use": "sig", **point}]
        text = signing_input({"alg": "ES256", "kid": name, "typ": "at+jwt"}, issuer.claims(audience))
        r, s = decode_dss_signature(private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{part(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"

    return forge


def small_rsa(issuer: TestIssuer, _: TestIssuer, audience: str) -> str:
    key = RSAKey.import_key(TINY_RSA)
    issuer.odd_keys = [{**key.as_dict(private=False), "kid": "small", "use": "sig", "alg": "RS256"}]
    return sign({"alg": "RS256", "kid": "small", "typ": "at+jwt"}, issuer.claims(audience), key, "RS256")


def forged_for_small_order(issuer: TestIssuer, _: TestIssuer, audience: str) -> str:
    """Nobody's signature, which plain Ed25519 calls good for the neutral element as the key."""
    neutral = (1).to_bytes(32, "little")
    issuer.odd_keys = [{"kty": "OKP", "crv": "Ed25519", "x": part(neutral), "kid": "low", "use": "sig"}]
    text = signing_input({"alg": "EdDSA", "kid": "low", "typ": "at+jwt"}, issuer.claims(audience))
    signature = neutral + bytes(32)
    ed25519.Ed25519PublicKey.from_public_bytes(neutral).verify(signature, text.encode())  # so it must be refused before
    return f"{text}.{part(signature)}"


def signature_with(kid: str, change: Callable[[bytes], bytes]) -> Forge:
    return lambda issuer, _, audience: resigned(issuer.token(audience, kid=kid), change)


def plus_order(signature: bytes) -> bytes:
    """The same signature with S + L, which solves the same equation (RFC 8032 section 5.1.7 forbids it)."""
    return signature[:32] + (int.from_bytes(signature[32:], "little") + ED25519_ORDER).to_bytes(32, "little")


def with_header(**header: Any) -> Forge:
    return lambda issuer, _, audience: issuer.token(audience, header=header)


def by_a_key_elsewhere(name: str) -> Forge:
    """A token by the second issuer's key, with a header that says where to find it."""
    return lambda issuer, second, audience: sign(
        {"alg": "ES256", "kid": "k1", "typ": "at+jwt", name: f"{second.url}/jwks"},
        issuer.claims(audience),
        second.keys["k1"][1],
        "ES256",
    )


def signed_by_the_second(**header: Any) -> Forge:
    def forge(issuer: TestIssuer, second: TestIssuer, audience: str) -> str:
        protected = {"alg": "ES256", "typ": "at+jwt", **header}
        return sign(protected, issuer.claims(audience), second.keys["k1"][1], "ES256")

    return forge


def signed_by_the_first_for_the_second(issuer: TestIssuer, second: TestIssuer, audience: str) -> str:
    claims = issuer.claims(audience, iss=second.url, tenant=None)
    return sign({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}, claims, issuer.keys["k1"][1], "ES256")


def known_to_the_second_only(issuer: TestIssuer, second: TestIssuer, audience: str) -> str:
    second.keys["theirs"] = ("ES256", new_key())
    return sign(
        {"alg": "ES256", "kid": "theirs", "typ": "at+jwt"}, issuer.claims(audience), second.keys["theirs"][1], "ES256"
    )


def for_client_and_resource(issuer: TestIssuer, _: TestIssuer, audience: str) -> str:
    return issuer.token(["robot", audience], header={"typ": "JWT"})


TRICKS: list[tuple[str, Forge, str]] = [
    # Algorithms: the token's word against the key's and the issuer's.
    ("fail/rs256-by-a-key-for-ps256", announced("RS256", "RS256", "ps256"), "key_unknown"),
    ("fail/ps256-key-used-as-rs256", announced("PS256", "RS256", "ps256"), "key_unknown"),
    ("fail/ps256-signature-called-rs256", announced("PS256", "RS256", "rs256"), "signature_invalid"),
    ("fail/rs256-signature-called-ps256", unnamed_rsa, "signature_invalid"),
    ("fail/es256-with-an-rsa-key", announced("RS256", "ES256", "rs256"), "key_unknown"),
    ("fail/rs256-with-an-ec-key", announced("ES256", "RS256", "es256"), "key_unknown"),
    ("fail/eddsa-with-an-ec-key", announced("ES256", "EdDSA", "es256"), "key_unknown"),
    ("fail/es256-with-an-ed25519-key", announced("EdDSA", "ES256", "eddsa"), "key_unknown"),
    ("fail/hs256-by-the-rsa-pem", hmac_by(rsa_pem, "rs256"), "token_algorithm_refused"),
    ("fail/hs256-by-the-ec-der", hmac_by(ec_der, "es256"), "token_algorithm_refused"),
    ("fail/hs256-by-the-raw-ed25519-key", hmac_by(ed_raw, "eddsa"), "token_algorithm_refused"),
    ("fail/rs512", announced("RS256", "RS512", "rs256"), "token_algorithm_refused"),
    ("fail/es384", announced("ES256", "ES384", "es256"), "token_algorithm_refused"),
    ("fail/es256k", announced("ES256", "ES256K", "es256"), "token_algorithm_refused"),
    ("fail/ed448", announced("EdDSA", "Ed448", "eddsa"), "token_algorithm_refused"),
    ("fail/eddsa-in-other-case", announced("EdDSA", "EDDSA", "eddsa"), "token_algorithm_refused"),
    # Keys that must not be used.
    ("fail/p-384", other_curve(ec.SECP384R1(), "p384", "P-384"), "key_unknown"),
    ("fail/secp256k1", other_curve(ec.SECP256K1(), "k256", "secp256k1"), "key_unknown"),
    ("fail/secp256k1-called-p-256", other_curve(ec.SECP256K1(), "k256", "P-256"), "key_unknown"),
    ("fail/p-384-called-p-256", other_curve(ec.SECP384R1(), "p384", "P-256"), "key_unknown"),
    ("fail/rsa-of-1024-bits", small_rsa, "key_unknown"),
    ("fail/ed25519-of-small-order", forged_for_small_order, "key_unknown"),
    # Signatures.
    ("fail/ed25519-one-byte-short", signature_with("eddsa", lambda s: s[:63]), "signature_invalid"),
    ("fail/ed25519-one-byte-long", signature_with("eddsa", lambda s: s + b"\0"), "signature_invalid"),
    ("fail/ed25519-twice", signature_with("eddsa", lambda s: s + s), "signature_invalid"),
    ("fail/ed25519-zeros", signature_with("eddsa", lambda _: bytes(64)), "signature_invalid"),
    ("fail/ed25519-neutral", signature_with("eddsa", lambda _: b"\1" + bytes(63)), "signature_invalid"),
    ("fail/ed25519-s-beyond-the-order", signature_with("eddsa", plus_order), "signature_invalid"),
    ("fail/es256-zeros", signature_with("es256", lambda _: bytes(64)), "signature_invalid"),
    ("fail/es256-r-zero", signature_with("es256", lambda s: bytes(32) + s[32:]), "signature_invalid"),
    ("fail/es256-one-byte-long", signature_with("es256", lambda s: s + b"\0"), "signature_invalid"),
    ("fail/rs256-one-byte-long", signature_with("rs256", lambda s: b"\0" + s), "signature_invalid"),
    # Headers that carry a key, name one, or extend the rules.
    ("fail/jku", by_a_key_elsewhere("jku"), "token_header_refused"),
    ("fail/x5u", by_a_key_elsewhere("x5u"), "token_header_refused"),
    (
        "fail/jwk",
        lambda i, s, a: i.token(a, header={"jwk": s.keys["k1"][1].as_dict(private=False)}),
        "token_header_refused",
    ),
    ("fail/x5c", with_header(x5c=["MIIB"]), "token_header_refused"),
    ("fail/crit-known", with_header(crit=["exp"], exp=1), "token_header_refused"),
    ("fail/crit-unknown", with_header(crit=["http://example.com/u"]), "token_header_refused"),
    ("fail/crit-empty", with_header(crit=[]), "token_header_refused"),
    ("fail/b64", with_header(b64=False, crit=["b64"]), "token_header_refused"),
    # Two issuers with one `kid`.
    ("fail/the-second-issuers-k1", signed_by_the_second(kid="k1"), "signature_invalid"),
    ("fail/the-second-issuers-key-without-kid", signed_by_the_second(), "key_unknown"),
    ("fail/the-first-issuers-k1", signed_by_the_first_for_the_second, "signature_invalid"),
    ("fail/a-kid-that-only-the-second-knows", known_to_the_second_only, "key_unknown"),
    # Other kinds of tokens by the same keys.
    ("fail/id-token-with-nonce", typed("JWT", nonce="n-0S6_WzA2Mj"), "token_type_refused"),
    ("fail/id-token-with-at_hash", typed("JWT", at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng"), "token_type_refused"),
    ("fail/id-token-for-client-and-resource", for_client_and_resource, "token_type_refused"),
    ("fail/keycloak-id-token", typed("JWT", typ="ID"), "token_type_refused"),
    ("fail/keycloak-refresh-token", typed("JWT", typ="Refresh"), "token_type_refused"),
    ("fail/keycloak-id-token-called-at+jwt", typed("at+jwt", typ="ID"), "token_type_refused"),
    ("fail/cognito-id-token", untyped(token_use="id"), "token_type_refused"),
    ("fail/untyped-id-token", untyped(nonce="n"), "token_type_refused"),
    ("fail/logout-token", typed("JWT", events={"http://schemas.openid.net/event": {}}), "token_type_refused"),
    ("fail/logout-token-by-type", typed("logout+jwt"), "token_type_refused"),
    ("fail/typ-absent-spelled-out", typed("absent"), "token_type_refused"),
    ("fail/typ-empty", typed(""), "token_type_refused"),
    # Audiences.
    ("fail/aud-the-clients", lambda i, *_: i.token("robot", header={"typ": "JWT"}), "token_type_refused"),
    ("fail/aud-another-servers-name", lambda i, *_: i.token(NOTES_ALIAS), "audience_mismatch"),
    ("fail/aud-name-in-other-case", lambda i, *_: i.token(LOOK_ALIAS.upper()), "audience_mismatch"),
    (
        "fail/aud-the-first-issuers-name-by-the-second",
        lambda _, s, __: s.token(LOOK_ALIAS, tenant=None),
        "audience_mismatch",
    ),
    # Roles, without a user.
    ("fail/role-not-the-agents", with_claims(realm_access={"roles": ["offline_access", "reader"]}), "role_refused"),
    ("fail/role-not-the-issuers", with_claims(realm_access={"roles": "admin"}), "role_refused"),
    ("fail/role-of-another-type", with_claims(realm_access={"roles": {"executor": True}}), "claim_invalid"),
    ("fail/user-of-another-type", with_claims(uid=["alice"]), "claim_invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("forge", "reason"), [trick[1:] for trick in TRICKS], ids=[trick[0] for trick in TRICKS])
@pytest.mark.filterwarnings("ignore:Key size should be")  # joserfc's, for the 1024 bits that are to be refused
async def test_a_confusing_token_is_refused_and_the_upstream_sees_nothing(
    gateway: Stack, issuer: TestIssuer, second: TestIssuer, upstream: RecordingUpstream, forge: Forge, reason: str
) -> None:
    token = forge(issuer, second, gateway.resource())
    response = await gateway.call(token, "look")
    assert response.status_code == 401
    assert gateway.reasons() == [reason]
    assert upstream.seen == []
    assert token not in response.text
    if reason == "token_header_refused":
        assert second.fetches == []  # an address in a header is not followed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_each_algorithm_is_verified(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream, algorithm: str
) -> None:
    good = issuer.token(gateway.resource(), kid=algorithm.lower())
    assert (await gateway.call(good, "look")).status_code == 200
    altered = good.split(".")
    altered[1] = part(json.dumps(issuer.claims(gateway.resource(), jti="other")).encode())
    assert (await gateway.call(".".join(altered), "look")).status_code == 401
    flipped = resigned(good, lambda signature: bytes([signature[0] ^ 1]) + signature[1:])
    assert (await gateway.call(flipped, "look")).status_code == 401
    assert set(gateway.reasons()) == {"signature_invalid"}  # repeated refusals are written as one
    assert upstream.calls == ["look"]


@pytest.mark.parametrize("typ", ["at+jwt", "JWT", None])
async def test_an_access_token_of_each_configured_type_passes(
    gateway: Stack, issuer: TestIssuer, typ: str | None
) -> None:
    token = issuer.token(
        [gateway.resource(), "account"], header={"typ": typ}, realm_access={"roles": ["executor", "x"]}
    )
    assert (await gateway.call(token, "look")).status_code == 200


async def test_equal_kids_and_names_of_two_issuers_are_two_agents(
    gateway: Stack, issuer: TestIssuer, second: TestIssuer
) -> None:
    assert (await gateway.call(issuer.token(gateway.resource()), "look")).status_code == 200
    assert (await gateway.call(second.token(gateway.resource(), tenant=None), "look")).status_code == 200
    assert {event["agent"] for event in gateway.events() if event.get("target") == "files.look"} == {"robot", "other"}


async def test_the_issuers_own_name_of_a_resource_opens_that_resource_only(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    token = issuer.token(LOOK_ALIAS, header={"typ": "JWT"})
    assert (await gateway.call(token, "look", "files")).status_code == 200
    assert (await gateway.call(token, "look", "notes")).status_code == 401
    assert gateway.reasons() == ["audience_mismatch"]
    assert (upstream.calls, other_upstream.calls) == (["look"], [])


@pytest.mark.parametrize(
    ("roles", "status"),
    [
        (["offline_access", "reader", "default-roles-acme"], 200),
        (["executor", "reader"], 200),
        (["offline_access"], 403),
        (["admin"], 403),
        ([], 403),
    ],
    ids=str,
)
async def test_a_user_has_the_mildest_of_the_roles_that_the_issuer_may_assert_and_no_other(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream, roles: list[str], status: int
) -> None:
    token = issuer.token(gateway.resource(), uid="alice", realm_access={"roles": roles})
    assert (await gateway.call(token, "look")).status_code == status
    assert gateway.reasons() == ([] if status == 200 else ["user_not_permitted"])
    assert upstream.calls == (["look"] if status == 200 else [])


async def test_a_users_roles_never_lift_what_the_agents_role_forbids(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = issuer.token(gateway.resource(), uid="alice", realm_access={"roles": ["executor", "reader"]})
    assert (await gateway.call(token, "wipe")).status_code == 403
    assert upstream.calls == []


async def test_without_its_issuers_keys_a_token_is_refused_and_not_believed(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["issuers"][0]["jwks_uri"] = f"http://127.0.0.1:{free_port()}/jwks"
    async with running(tmp_path, settings) as stack:
        response = await stack.call(issuer.token(stack.resource()), "look")
        assert response.status_code == 503
        assert stack.reasons() == ["keys_unavailable"]
        assert upstream.seen == []


async def test_a_lifetime_is_what_the_issuer_wrote_not_what_is_left_of_it(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    now = int(time.time())
    token = issuer.token(gateway.resource(), iat=now - 86_400, nbf=now - 5, exp=now + 60)
    assert (await gateway.call(token, "look")).status_code == 401
    assert gateway.reasons() == ["token_lifetime_excessive"]
    assert upstream.seen == []
