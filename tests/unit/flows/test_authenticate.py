"""Gate one: its steps in their order, its cache, and what a principal is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from gatelab import AGENT, BINDING, FILES, ISSUER, NOW, ROBOT, accessors
from harness.issuer import new_key, sign
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, VerificationKey, parse_jwks
from twogate.core.principal import Agent, AgentId, Binding, Method, Principal, UserId
from twogate.flows.gateway import authenticate
from twogate.flows.gateway.authenticate import CACHE_SECONDS, Authenticator
from twogate.flows.gateway.credential import BearerToken
from twogate.flows.gateway.issuers import ClaimPointers, Issuers, TrustedIssuer
from twogate.flows.gateway.verify_token import LEEWAY, MAX_AUDIENCES
from twogate.flows.registry import RegistryView

KEY, OTHER_KEY, STRANGER_KEY = new_key(), new_key(), new_key()
OTHER_ISSUER = "https://other.example.com"
POINTERS = ClaimPointers(agent="/azp", tenant="/tenant", role="/role", groups="/groups", scope="/scope")
TRUSTED = TrustedIssuer(
    issuer=ISSUER,
    algorithms=frozenset({Algorithm.ES256}),
    types=frozenset({"at+jwt"}),
    tenants=frozenset({"acme", "globex"}),
    roles=frozenset({"executor", "reader"}),
    pointers=POINTERS,
    max_lifetime=3600,
)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER, "sub": "s-1", "azp": "robot", "aud": FILES, "iat": NOW, "exp": NOW + 900, "tenant": "acme",
}  # fmt: skip
VIEW = RegistryView(1, {ROBOT: AGENT}, {BINDING: ROBOT})


class CountingKeys:
    """A key source that counts how often it is asked."""

    def __init__(self, *keys: VerificationKey, fails: bool = False) -> None:
        self.given = keys
        self.fails = fails
        self.asked: list[str | None] = []

    async def keys(self, unverified_kid: str | None) -> tuple[VerificationKey, ...]:
        self.asked.append(unverified_kid)
        if self.fails:
            raise GateError(ErrorCode.KEYS_UNAVAILABLE)
        return self.given


def public(key: Any) -> VerificationKey:
    (parsed,) = parse_jwks(json.dumps({"keys": [{**key.as_dict(private=False), "kid": "k1"}]}).encode())
    return parsed


class Gate:
    """An authenticator in front of two issuers, and how tests ask it."""

    def __init__(self, trusted: TrustedIssuer = TRUSTED, **pointers: Any) -> None:
        trusted = msgspec.structs.replace(trusted, pointers=msgspec.structs.replace(trusted.pointers, **pointers))
        other = msgspec.structs.replace(TRUSTED, issuer=OTHER_ISSUER)
        self.source = CountingKeys(public(KEY))
        keys = {ISSUER: self.source, OTHER_ISSUER: CountingKeys(public(OTHER_KEY))}
        self.gate = Authenticator(Issuers({ISSUER: trusted, OTHER_ISSUER: other}, keys), accessors())

    async def ask(self, token: str, *, resource: str = FILES, view: RegistryView = VIEW, now: int = NOW) -> Principal:
        return await self.gate.authenticate(BearerToken(token), resource, view, now)

    async def refuses(self, token: str, **changes: Any) -> ErrorCode:
        with pytest.raises(GateError) as refusal:
            await self.ask(token, **changes)
        assert token not in str(refusal.value)
        return refusal.value.code


def token(
    header: Mapping[str, Any] | None = None, key: Any = KEY, claims: Mapping[str, Any] | None = None, **changes: Any
) -> str:
    """A token; a claim or header parameter changed to None is left out."""
    every = {**CLAIMS, **(claims or {}), **changes}
    protected = {"alg": "ES256", "kid": "k1", "typ": "at+jwt", **(header or {})}
    return sign(
        {name: value for name, value in protected.items() if value is not None},
        {name: value for name, value in every.items() if value is not None},
        key,
        "ES256",
    )


# The steps.

# One defect for each step, in the documented order: header parameters, signing key, claims, and the step's code.
DEFECTS: list[tuple[str, dict[str, Any], Any, dict[str, Any], ErrorCode]] = [
    ("1 unknown issuer", {}, None, {"iss": "https://unknown.example.com"}, ErrorCode.ISSUER_UNKNOWN),
    ("2 type", {"typ": "JWT"}, None, {}, ErrorCode.TOKEN_TYPE_REFUSED),
    ("3 algorithm", {"alg": "RS256"}, None, {}, ErrorCode.TOKEN_ALGORITHM_REFUSED),
    ("3 signature", {}, STRANGER_KEY, {}, ErrorCode.SIGNATURE_INVALID),
    ("3 another kind", {}, None, {"typ": "ID"}, ErrorCode.TOKEN_TYPE_REFUSED),
    ("4 expired", {}, None, {"exp": NOW}, ErrorCode.TOKEN_EXPIRED),
    ("6 audience missing", {}, None, {"aud": None}, ErrorCode.CLAIM_MISSING),
    ("7 scope", {}, None, {"scope": 5}, ErrorCode.CLAIM_INVALID),
    ("8 subject", {}, None, {"sub": None}, ErrorCode.CLAIM_MISSING),
    ("9 tenant", {}, None, {"tenant": "evil"}, ErrorCode.TENANT_REFUSED),
    ("9 role", {}, None, {"role": "admin"}, ErrorCode.ROLE_REFUSED),
    ("10 actor", {}, None, {"act": {"sub": "another"}}, ErrorCode.ACTOR_REFUSED),
    ("11 bound", {}, None, {"cnf": {"jkt": "x"}}, ErrorCode.TOKEN_BINDING_REFUSED),
    ("13 unbound", {}, None, {"azp": "nobody"}, ErrorCode.AGENT_UNBOUND),
]


@pytest.mark.parametrize("first", range(len(DEFECTS)), ids=[name for name, *_ in DEFECTS])
async def test_a_token_with_several_defects_is_refused_for_the_first(first: int) -> None:
    header: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    key: Any = None
    for _, more_header, more_key, more_claims, _ in reversed(DEFECTS[first:]):
        header |= more_header
        claims |= more_claims
        key = more_key or key
    assert await Gate().refuses(token(header, key or KEY, claims)) is DEFECTS[first][4]


async def test_a_refused_issuer_type_or_algorithm_costs_no_look_at_the_keys() -> None:
    gate = Gate()
    await gate.refuses(token(iss="https://unknown.example.com"))
    await gate.refuses(token({"typ": "id+jwt"}))
    await gate.refuses(token({"alg": "RS256"}))
    await gate.refuses("no.token.")
    assert gate.source.asked == []


async def test_a_good_token_makes_a_principal() -> None:
    principal = await Gate().ask(token(scope="b a", groups=["g1", "g2"]))
    assert principal == Principal(
        tenant="acme",
        issuer=ISSUER,
        agent=AGENT,
        user=None,
        user_roles=(),
        groups=("g1", "g2"),
        scopes=frozenset({"a", "b"}),
        method=Method.JWT,
        credential=principal.credential,
        session_id=None,
        expires_at=NOW + 900,
    )
    assert principal.credential.startswith("a1:")


async def test_the_credentials_name_in_the_audit_trail_differs_by_token_and_says_nothing_of_it() -> None:
    gate = Gate()
    first, second = token(jti="1"), token(jti="2")
    names = [(await gate.ask(text)).credential for text in (first, second, first)]
    assert names[0] == names[2] != names[1]
    assert names[0].removeprefix("a1:") not in first


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
async def test_the_type_is_compared_as_a_media_type(typ: str) -> None:
    # RFC 7515 section 4.1.9.
    assert (await Gate().ask(token({"typ": typ}))).agent is AGENT


async def test_a_token_without_type_passes_only_where_that_is_configured() -> None:
    untyped = msgspec.structs.replace(TRUSTED, types=frozenset({None}))
    assert (await Gate(untyped).ask(token({"typ": None}))).agent is AGENT
    for typ in ("", "absent", "none", "None", "at+jwt"):
        assert await Gate(untyped).refuses(token({"typ": typ})) is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize(
    "claims",
    [{"nonce": "n"}, {"at_hash": "h"}, {"typ": "ID"}, {"typ": "Refresh"}, {"aud": [FILES, "robot"]}],
    ids=str,
)
async def test_an_id_token_is_no_access_token_although_the_type_is_allowed(claims: dict[str, Any]) -> None:
    for typ in ("JWT", None):
        gate = Gate(msgspec.structs.replace(TRUSTED, types=frozenset({"jwt", None})))
        assert (await gate.ask(token({"typ": typ}))).agent is AGENT
        assert await gate.refuses(token({"typ": typ}, claims=claims)) is ErrorCode.TOKEN_TYPE_REFUSED


@pytest.mark.parametrize("typ", [None, "", "JWT", "op+jwt", "at+jwt;x=1", "application/application/at+jwt", "at+jwt "])
async def test_another_type_is_refused(typ: str | None) -> None:
    assert await Gate().refuses(token({"typ": typ})) is ErrorCode.TOKEN_TYPE_REFUSED


async def test_the_key_of_one_issuer_does_not_speak_for_another() -> None:
    assert await Gate().refuses(token(key=OTHER_KEY)) is ErrorCode.SIGNATURE_INVALID
    assert await Gate().refuses(token(iss=OTHER_ISSUER)) is ErrorCode.SIGNATURE_INVALID


@pytest.mark.parametrize("iss", [None, 5, [ISSUER], ISSUER + "/", ISSUER.upper(), ""])
async def test_an_issuer_is_compared_exactly(iss: object) -> None:
    assert await Gate().refuses(token(iss=iss)) is ErrorCode.ISSUER_UNKNOWN


async def test_keys_that_cannot_be_had_refuse_the_token_and_are_asked_for_again() -> None:
    gate = Gate()
    gate.source.fails = True
    assert await gate.refuses(token()) is ErrorCode.KEYS_UNAVAILABLE
    gate.source.fails = False
    assert (await gate.ask(token())).agent is AGENT


TIMES: dict[str, tuple[dict[str, Any], ErrorCode | None]] = {
    "ok/last second": ({"exp": NOW + 1}, None),
    "ok/issued by a clock a little ahead": ({"iat": NOW + LEEWAY, "exp": NOW + 60}, None),
    "ok/valid from a little ahead": ({"nbf": NOW + LEEWAY}, None),
    "ok/the longest life": ({"exp": NOW + 3600}, None),
    "fail/expired this second": ({"exp": NOW}, ErrorCode.TOKEN_EXPIRED),
    "fail/no leeway for exp": ({"exp": NOW - 1}, ErrorCode.TOKEN_EXPIRED),
    "fail/expires within this second": ({"exp": NOW + 0.9}, ErrorCode.TOKEN_EXPIRED),
    "fail/not yet": ({"nbf": NOW + LEEWAY + 1}, ErrorCode.TOKEN_NOT_YET_VALID),
    "fail/issued in the future": ({"iat": NOW + LEEWAY + 1}, ErrorCode.TOKEN_NOT_YET_VALID),
    "fail/nbf does not hide a future iat": ({"iat": NOW + 60, "nbf": NOW - 60}, ErrorCode.TOKEN_NOT_YET_VALID),
    "fail/lives too long": ({"exp": NOW + 3601}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
    "fail/lived too long already": ({"iat": NOW - 3600, "exp": NOW + 1}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
    "fail/no exp": ({"exp": None}, ErrorCode.CLAIM_MISSING),
    "fail/no iat": ({"iat": None}, ErrorCode.CLAIM_MISSING),
    "fail/exp is text": ({"exp": str(NOW + 60)}, ErrorCode.CLAIM_INVALID),
    "fail/exp beyond any time": ({"exp": 2**60}, ErrorCode.CLAIM_INVALID),
    "fail/nbf is text": ({"nbf": "0"}, ErrorCode.CLAIM_INVALID),
}


@pytest.mark.parametrize("name", TIMES)
async def test_times(name: str) -> None:
    claims, code = TIMES[name]
    if code is None:
        assert (await Gate().ask(token(claims=claims))).agent is AGENT
    else:
        assert await Gate().refuses(token(claims=claims)) is code


@pytest.mark.parametrize("audience", [FILES, [FILES], ["https://x", FILES]])
async def test_an_audience_that_holds_this_very_resource_passes(audience: object) -> None:
    assert (await Gate().ask(token(aud=audience))).agent is AGENT


@pytest.mark.parametrize(
    ("audience", "code"),
    [
        ("https://mcp.example.com", ErrorCode.AUDIENCE_MISMATCH),
        (FILES + "/", ErrorCode.AUDIENCE_MISMATCH),
        (FILES + "2", ErrorCode.AUDIENCE_MISMATCH),
        (FILES.upper(), ErrorCode.AUDIENCE_MISMATCH),
        (f"{FILES} https://x", ErrorCode.AUDIENCE_MISMATCH),
        ("", ErrorCode.AUDIENCE_MISMATCH),
        ("*", ErrorCode.AUDIENCE_MISMATCH),
        ([], ErrorCode.CLAIM_MISSING),
        ([5], ErrorCode.CLAIM_INVALID),
        ({FILES: 1}, ErrorCode.CLAIM_INVALID),
        ([[FILES]], ErrorCode.CLAIM_INVALID),
        (5, ErrorCode.CLAIM_INVALID),
    ],
    ids=str,
)
async def test_any_other_audience_is_refused(audience: object, code: ErrorCode) -> None:
    assert await Gate().refuses(token(aud=audience)) is code


async def test_an_audience_list_has_a_bound() -> None:
    fillers = [f"https://x{number}" for number in range(MAX_AUDIENCES)]
    assert (await Gate().ask(token(aud=[*fillers[1:], FILES]))).agent is AGENT
    assert await Gate().refuses(token(aud=[*fillers, FILES])) is ErrorCode.CLAIM_INVALID


NOTES = FILES.replace("files", "notes")
RENAMED = msgspec.structs.replace(TRUSTED, audiences={FILES: "6e74172b", NOTES: "7f85283c"})


@pytest.mark.parametrize("audience", ["6e74172b", ["x", "6e74172b"], FILES, [FILES, "7f85283c"]], ids=str)
async def test_an_issuers_own_name_for_a_resource_means_that_resource(audience: object) -> None:
    assert (await Gate(RENAMED).ask(token(aud=audience))).agent is AGENT


@pytest.mark.parametrize("audience", ["7f85283c", NOTES, "6e74172B", "6e74172b ", "6e7", ["x"]], ids=str)
async def test_an_issuers_own_name_for_a_resource_means_no_other(audience: object) -> None:
    assert await Gate(RENAMED).refuses(token(aud=audience)) is ErrorCode.AUDIENCE_MISMATCH


async def test_an_issuers_own_name_for_a_resource_means_nothing_from_another_issuer() -> None:
    assert await Gate(RENAMED).refuses(token(key=OTHER_KEY, iss=OTHER_ISSUER, aud="6e74172b")) is (
        ErrorCode.AUDIENCE_MISMATCH
    )


# Tenant, role, user, groups.


@pytest.mark.parametrize("tenant", [None, "evil", "ACME", "acme ", "", 5, ["acme"]])
async def test_a_tenant_that_is_missing_or_not_the_issuers_to_assert_is_refused(tenant: object) -> None:
    expected = ErrorCode.TENANT_REFUSED if tenant in (None, "evil", "ACME", "acme ") else ErrorCode.CLAIM_INVALID
    assert await Gate().refuses(token(tenant=tenant)) is expected


async def test_only_an_issuer_of_one_tenant_may_leave_the_claim_out_by_configuration() -> None:
    one = msgspec.structs.replace(TRUSTED, tenants=frozenset({"acme"}))
    assert (await Gate(one, tenant=None).ask(token(tenant=None))).tenant == "acme"
    assert await Gate(one).refuses(token(tenant=None)) is ErrorCode.TENANT_REFUSED
    assert await Gate(tenant=None).refuses(token(tenant=None)) is ErrorCode.TENANT_REFUSED


async def test_an_agent_of_another_tenant_than_the_tokens_is_not_found() -> None:
    assert await Gate().refuses(token(tenant="globex")) is ErrorCode.AGENT_UNBOUND


@pytest.mark.parametrize(
    "role",
    ["executor", ["executor"], ["executor", "reader"], ["offline_access", "executor"], ["default-roles-acme"], []],
    ids=str,
)
async def test_without_user_roles_may_only_hold_the_registered_role_among_them(role: object) -> None:
    principal = await Gate().ask(token(role=role))
    assert (principal.agent.role, principal.user_roles) == ("executor", ())


@pytest.mark.parametrize("role", ["reader", ["reader"], ["offline_access", "reader"]], ids=str)
async def test_without_user_roles_without_the_registered_one_are_refused(role: object) -> None:
    assert await Gate().refuses(token(role=role)) is ErrorCode.ROLE_REFUSED


async def test_a_list_with_the_registered_role_does_not_help_if_the_issuer_may_not_assert_it() -> None:
    readers = msgspec.structs.replace(TRUSTED, roles=frozenset({"reader"}))
    assert await Gate(readers).refuses(token(role=["executor", "reader"])) is ErrorCode.ROLE_REFUSED
    assert (await Gate(readers).ask(token(role=["executor"]))).agent.role == "executor"


@pytest.mark.parametrize(
    ("role", "counted"),
    [
        (None, ()),
        ("reader", ("reader",)),
        (["reader"], ("reader",)),
        (["reader", "reader"], ("reader",)),
        (["reader", "offline_access", "executor", "admin", "Reader", ""], ("executor", "reader")),
        (["admin"], ()),
        ([], ()),
    ],
    ids=str,
)
async def test_with_a_user_the_roles_that_the_issuer_may_assert_are_the_users(
    role: object, counted: tuple[str, ...]
) -> None:
    principal = await Gate(user="/sub").ask(token(role=role))
    assert principal.user == UserId(ISSUER, "s-1")
    assert principal.user_roles == counted
    assert principal.agent.role == "executor"


@pytest.mark.parametrize(
    "role", ["", 5, True, {"reader": 1}, [5], [["reader"]], ["reader", None], ["x"] * 1001, ["x" * 1025]], ids=repr
)
async def test_a_role_of_another_type_is_refused(role: object) -> None:
    for gate in (Gate(), Gate(user="/sub")):
        assert await gate.refuses(token(role=role)) is ErrorCode.CLAIM_INVALID


@pytest.mark.parametrize("role", ["admin", "Reader", "ghost"])
async def test_a_role_that_the_issuer_may_not_assert_is_refused_with_a_user_too(role: str) -> None:
    assert await Gate(user="/sub").refuses(token(role=role)) is ErrorCode.ROLE_REFUSED


async def test_there_is_a_user_only_where_the_operator_points_at_one() -> None:
    claims = {"sub": "alice", "preferred_username": "alice", "email": "alice@example.com"}
    assert (await Gate().ask(token(claims=claims))).user is None
    assert (await Gate(user="/preferred_username").ask(token(claims=claims))).user == UserId(ISSUER, "alice")
    assert (await Gate(user="/missing", user_optional=True).ask(token(claims=claims))).user is None
    assert await Gate(user="/missing").refuses(token(claims=claims)) is ErrorCode.CLAIM_MISSING


async def test_claims_are_read_where_the_pointers_say_and_nowhere_else() -> None:
    keycloak = Gate(role="/realm/roles", groups=None, scope=None, session="/sid")
    principal = await keycloak.ask(
        token(claims={"realm": {"roles": ["executor"]}, "role": "admin", "groups": ["g"], "scope": "s", "sid": "s-9"})
    )
    assert (principal.groups, principal.scopes, principal.session_id) == ((), frozenset(), "s-9")
    assert (await Gate().ask(token(sid="s-9"))).session_id is None


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        ("a b", ("a", "b")),
        (" a  b ", ("a", "b")),
        (["a", "b"], ("a", "b")),
        (["a b"], ("a b",)),
        ([], ()),
        ("", ()),
    ],
    ids=repr,
)
async def test_scopes_are_one_string_or_a_list(scope: object, granted: tuple[str, ...]) -> None:
    # RFC 8693 section 4.2 and Entra ID's `scp`; Okta's `scp`.
    assert (await Gate(scope="/scp").ask(token(scp=scope))).scopes == set(granted)


@pytest.mark.parametrize(
    ("claim", "value"),
    [("groups", "staff"), ("groups", [5]), ("scope", {"a": 1}), ("azp", 5), ("azp", ""), ("azp", "a\nb"), ("sub", 5)],
)
async def test_a_claim_of_another_type_is_refused(claim: str, value: object) -> None:
    assert await Gate().refuses(token(claims={claim: value})) is ErrorCode.CLAIM_INVALID


async def test_a_token_without_the_agents_claim_is_refused() -> None:
    assert await Gate().refuses(token(azp=None)) is ErrorCode.CLAIM_MISSING


@pytest.mark.parametrize("cnf", [{"jkt": "x"}, {"x5t#S256": "x"}, {}, [], "", 0, False])
async def test_a_bound_token_is_refused_whatever_it_is_bound_to(cnf: object) -> None:
    assert await Gate().refuses(token(cnf=cnf)) is ErrorCode.TOKEN_BINDING_REFUSED


# The registry.


@pytest.mark.parametrize(
    "view",
    [
        RegistryView(2, {}, {}),
        RegistryView(2, {ROBOT: AGENT}, {}),
        RegistryView(2, {}, {BINDING: ROBOT}),
        RegistryView(2, {ROBOT: AGENT}, {Binding(Method.JWT, OTHER_ISSUER, "robot"): ROBOT}),
        RegistryView(2, {ROBOT: AGENT}, {Binding(Method.JWT, ISSUER, "Robot"): ROBOT}),
    ],
    ids=["nothing", "no binding", "no agent", "another issuer's binding", "another spelling"],
)
async def test_an_identity_that_is_bound_to_no_agent_is_refused(view: RegistryView) -> None:
    assert await Gate().refuses(token(), view=view) is ErrorCode.AGENT_UNBOUND


# The cache.


async def test_the_same_token_is_verified_once() -> None:
    gate = Gate()
    text = token()
    first = await gate.ask(text)
    assert await gate.ask(text, now=NOW + 10) is first
    assert len(gate.source.asked) == 1
    await gate.ask(token(jti="another"))
    assert len(gate.source.asked) == 2


async def test_a_refused_token_is_not_remembered() -> None:
    gate = Gate()
    for _ in range(3):
        assert await gate.refuses(token(key=STRANGER_KEY)) is ErrorCode.SIGNATURE_INVALID
    assert len(gate.source.asked) == 3


async def test_a_verified_token_is_verified_again_after_five_minutes() -> None:
    gate = Gate()
    text = token()
    await gate.ask(text)
    await gate.ask(text, now=NOW + CACHE_SECONDS - 1)
    assert len(gate.source.asked) == 1
    await gate.ask(text, now=NOW + CACHE_SECONDS)
    assert len(gate.source.asked) == 2
    # A key that is gone by then no longer speaks.
    gate.source.given = ()
    assert await gate.refuses(text, now=NOW + 2 * CACHE_SECONDS) is ErrorCode.KEY_UNKNOWN


async def test_the_cache_never_outlives_the_token() -> None:
    gate = Gate()
    text = token(exp=NOW + 60)
    await gate.ask(text, now=NOW + 59)
    assert await gate.refuses(text, now=NOW + 60) is ErrorCode.TOKEN_EXPIRED


async def test_a_clock_set_back_makes_a_cached_token_not_yet_valid() -> None:
    gate = Gate()
    text = token()
    await gate.ask(text)
    assert await gate.refuses(text, now=NOW - LEEWAY - 1) is ErrorCode.TOKEN_NOT_YET_VALID


async def test_a_cached_token_is_still_for_its_own_resource_only() -> None:
    gate = Gate()
    text = token()
    await gate.ask(text)
    assert await gate.refuses(text, resource=FILES.replace("files", "notes")) is ErrorCode.AUDIENCE_MISMATCH


async def test_a_changed_registry_is_looked_at_again_with_a_cached_token() -> None:
    gate = Gate()
    text = token()
    await gate.ask(text)
    disabled = RegistryView(2, {ROBOT: msgspec.structs.replace(AGENT, disabled=True)}, VIEW.bindings)
    assert await gate.refuses(text, view=disabled) is ErrorCode.AGENT_DISABLED
    promoted = RegistryView(3, {ROBOT: msgspec.structs.replace(AGENT, role="admin")}, VIEW.bindings)
    assert (await gate.ask(text, view=promoted)).agent.role == "admin"
    moved = AgentId("acme", "other")
    rebound = RegistryView(4, {moved: Agent(moved, "reader", ())}, {BINDING: moved})
    assert (await gate.ask(text, view=rebound)).agent.id == moved
    assert await gate.refuses(text, view=RegistryView(5, {}, {})) is ErrorCode.AGENT_UNBOUND
    assert (await gate.ask(text)).agent is AGENT
    assert len(gate.source.asked) == 1


async def test_two_tokens_that_differ_in_one_character_do_not_share_an_entry() -> None:
    gate = Gate()
    text = token()
    await gate.ask(text)
    head, body, signature = text.split(".")
    forged = f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    assert await gate.refuses(forged) is ErrorCode.SIGNATURE_INVALID


async def test_the_cache_keeps_no_more_than_its_bound_and_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticate, "CACHE_ENTRIES", 3)
    gate = Gate()
    texts = [token(jti=str(number)) for number in range(4)]
    for text in texts:
        await gate.ask(text)
    assert len(gate.source.asked) == 4
    for text in texts[1:]:
        await gate.ask(text)
    assert len(gate.source.asked) == 4
    await gate.ask(texts[0])
    assert len(gate.source.asked) == 5


async def test_the_shipped_bounds_are_those_of_the_requirements() -> None:
    # R-12: "verified tokens at most 5 minutes".
    assert CACHE_SECONDS == 300
    assert authenticate.CACHE_ENTRIES == 10_000


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ""},
        {"algorithms": frozenset()},
        {"signed": False},
        {"signed": False, "algorithms": frozenset()},
        {"algorithms": frozenset(), "asked": True},
        {"types": frozenset()},
        {"tenants": frozenset()},
        {"max_lifetime": 0},
        {"audiences": {FILES: "x", NOTES: "x"}},
        {"audiences": {FILES: ""}},
    ],
    ids=str,
)
def test_an_issuer_without_a_limit_is_a_mistake(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"an issuer needs|means one resource|by algorithms"):
        msgspec.structs.replace(TRUSTED, **changes)


# The agent that our own server names.


async def test_a_client_without_a_binding_is_the_agent_that_its_token_names_if_the_issuer_may_say_so() -> None:
    gate = Gate(assigned="/agent")
    principal = await gate.ask(token(azp="https://app.example.com/client", agent=ROBOT.agent))
    assert (principal.agent.id, principal.key.agent) == (ROBOT, ROBOT.agent)
    assert await gate.refuses(token(azp="https://app.example.com/client", agent="nobody")) is ErrorCode.AGENT_UNBOUND
    assert await gate.refuses(token(azp="https://app.example.com/client")) is ErrorCode.AGENT_UNBOUND


async def test_no_other_issuer_assigns_agents() -> None:
    assert await Gate().refuses(token(azp="nobody", agent=ROBOT.agent)) is ErrorCode.AGENT_UNBOUND


async def test_an_assigned_agent_is_one_of_the_tokens_own_tenant() -> None:
    gate = Gate(assigned="/agent")
    foreign = token(azp="nobody", tenant="globex", agent=ROBOT.agent)
    assert await gate.refuses(foreign) is ErrorCode.AGENT_UNBOUND


async def test_a_binding_wins_over_an_assigned_agent() -> None:
    other = Agent(AgentId("acme", "other"), "reader", ())
    view = RegistryView(1, {ROBOT: AGENT, other.id: other}, {BINDING: ROBOT})
    principal = await Gate(assigned="/agent").ask(token(agent="other"), view=view)
    assert principal.agent.id == ROBOT
