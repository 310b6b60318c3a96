"""Revocations: what they refuse at gate one, and for which tokens they are (DESIGN decision 18)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gatelab import AGENT, BINDING, FILES, ISSUER, NOW, ROBOT, accessors
from harness.issuer import new_key, sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.oauth.access_token import MAX_LIFETIME
from twogate.core.principal import Binding, Method
from twogate.flows.authserver.revocations import MAX_VALUE, RevocationKind, Revocations, outlasts_tokens
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import BearerToken
from twogate.flows.gateway.issuers import ClaimPointers, FixedKeys, Issuers, TrustedIssuer
from twogate.flows.registry import RegistryView

OTHER = "https://other.example.com"
KEY = new_key()
KEYS = FixedKeys(parse_jwks(msgspec.json.encode({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]})))
OWN = TrustedIssuer(
    issuer=ISSUER,
    algorithms=frozenset({Algorithm.ES256}),
    types=frozenset({"at+jwt"}),
    tenants=frozenset({"acme"}),
    roles=frozenset({"reader"}),
    pointers=ClaimPointers(agent="/client_id", tenant="/tenant", user="/user", user_optional=True),
    max_lifetime=900,
    revocable=True,
)
EXTERNAL = msgspec.structs.replace(OWN, issuer=OTHER, revocable=False)
BINDINGS = {Binding(Method.JWT, issuer, "robot"): ROBOT for issuer in (ISSUER, OTHER)} | {BINDING: ROBOT}
NAMES = {"token": "j-1", "grant": "g-1", "client": "robot", "user": "alice"}


class Kept:
    """A store that shows what reached it."""

    def __init__(self) -> None:
        self.added: list[tuple[str, str, int, int]] = []

    async def add(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        self.added.append((kind, value, until, now))


def token(issuer: str = ISSUER, **changes: object) -> str:
    claims: dict[str, Any] = {
        "iss": issuer, "sub": "alice", "client_id": "robot", "aud": FILES, "iat": NOW, "exp": NOW + 300,
        "tenant": "acme", "jti": "j-1", "grant_id": "g-1", "user": "alice", **changes,
    }  # fmt: skip
    kept = {name: value for name, value in claims.items() if value is not None}
    return sign({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}, kept, KEY, "ES256")


def view(*revoked: tuple[str, str], revision: int = 1) -> RegistryView:
    return RegistryView(revision, {ROBOT: AGENT}, BINDINGS, frozenset(revoked))


def gate() -> Authenticator:
    return Authenticator(Issuers({ISSUER: OWN, OTHER: EXTERNAL}, {ISSUER: KEYS, OTHER: KEYS}), accessors())


async def refusal(authenticator: Authenticator, text: str, seen: RegistryView) -> ErrorCode | None:
    try:
        await authenticator.authenticate(BearerToken(text), FILES, seen, NOW)
    except GateError as error:
        return error.code
    return None


@pytest.mark.parametrize("kind", NAMES)
async def test_a_cached_token_is_refused_for_the_view_that_has_its_name_and_for_no_other(kind: str) -> None:
    authenticator, text = gate(), token()
    expected = ErrorCode.USER_DISABLED if kind == "user" else ErrorCode.TOKEN_REVOKED
    assert await refusal(authenticator, text, view()) is None
    assert await refusal(authenticator, text, view((kind, NAMES[kind]), revision=2)) is expected
    assert await refusal(authenticator, text, view((kind, NAMES[kind] + "x"), revision=3)) is None
    assert await refusal(authenticator, text, view((kind, NAMES[kind]), revision=4)) is expected


@pytest.mark.parametrize("kind", NAMES)
async def test_another_issuers_token_of_the_same_names_is_not_concerned(kind: str) -> None:
    assert await refusal(gate(), token(OTHER), view((kind, NAMES[kind]))) is None


async def test_a_disabled_user_is_the_reason_whatever_else_was_revoked() -> None:
    assert await refusal(gate(), token(), view(*NAMES.items())) is ErrorCode.USER_DISABLED


async def test_a_token_of_our_own_that_nobody_could_revoke_is_refused() -> None:
    assert await refusal(gate(), token(jti=None), view()) is ErrorCode.CLAIM_MISSING
    assert await refusal(gate(), token(OTHER, jti=None), view()) is None


async def test_a_token_without_grant_or_user_can_be_revoked_by_its_other_names() -> None:
    text = token(grant_id=None, user=None)
    assert await refusal(gate(), text, view(("grant", "g-1"), ("user", "alice"))) is None
    assert await refusal(gate(), text, view(("token", "j-1"))) is ErrorCode.TOKEN_REVOKED


async def test_while_nothing_changes_a_token_is_not_judged_again() -> None:
    authenticator, text, seen = gate(), token(), view()
    await authenticator.authenticate(BearerToken(text), FILES, seen, NOW)
    principal = await authenticator.authenticate(BearerToken(text), FILES, seen, NOW)
    # The very object: steps 11 and 12 made it once for this view.
    assert await authenticator.authenticate(BearerToken(text), FILES, seen, NOW) is principal


async def test_a_revocation_reaches_the_store_with_its_end() -> None:
    kept = Kept()
    await Revocations(kept).revoke("grant", "g-1", NOW + 5, NOW)
    assert kept.added == [("grant", "g-1", NOW + 5, NOW)]


async def test_what_has_expired_already_needs_no_revocation() -> None:
    kept = Kept()
    await Revocations(kept).revoke("token", "j-1", NOW, NOW)
    assert kept.added == []


@pytest.mark.parametrize(("kind", "value"), [("token", ""), ("grant", "x" * (MAX_VALUE + 1)), ("user", "acme/alice")])
async def test_a_name_that_no_token_can_have_is_a_mistake_of_the_caller(kind: RevocationKind, value: str) -> None:
    kept = Kept()
    with pytest.raises(ValueError, match="not the name of one"):
        await Revocations(kept).revoke(kind, value, NOW + 5, NOW)
    assert kept.added == []


def test_revoking_all_tokens_lasts_as_long_as_any_configuration_could_let_them_live() -> None:
    assert outlasts_tokens(NOW) == NOW + MAX_LIFETIME
