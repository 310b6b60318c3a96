"""Attacks on logins through an upstream provider: on the way back, on the ID token, and on where requests go."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import new_key, sign
from rawlab import RawServer, answering, http_answer
from tokenlab import StepClock
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm
from twogate.core.oauth.id_token import IdTokenRules
from upstreamlab import CLIENT, SECRET, TO, TestProvider, UpstreamLab, open_upstream_lab, rules_for


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


@pytest.fixture
async def idp(clock: StepClock) -> AsyncIterator[TestProvider]:
    async with TestProvider(clock) as made:
        yield made


@pytest.fixture
async def evil(clock: StepClock) -> AsyncIterator[TestProvider]:
    """A second provider that the operator configured, and that has turned against the first."""
    async with TestProvider(clock, "evil-idp") as made:
        yield made


@pytest.fixture
async def lab(tmp_path: Path, clock: StepClock, idp: TestProvider, evil: TestProvider) -> AsyncIterator[UpstreamLab]:
    async with open_upstream_lab(
        tmp_path, clock, rules_for(idp), rules_for(evil, tenants=frozenset({"acme", "globex"}))
    ) as made:
        yield made


async def refused(lab: UpstreamLab, answer: Any, status: int, reason: str) -> None:
    """Nobody was logged in, the page says no more than it may, and the trail says why."""
    assert answer.status_code == status, answer.text
    assert "twogate-login" not in str(answer.headers)
    assert lab.audit.last.reason == reason
    assert await lab.current(answer) is None


# `state`


async def test_a_callback_works_once(lab: UpstreamLab, idp: TestProvider) -> None:
    request = await lab.request()
    query: dict[str, Any] = {"state": request["state"], "iss": idp.url}
    assert (await lab.come_back(code=idp.code(request), **query)).status_code == 303
    asked = len(idp.forms)
    await refused(lab, await lab.come_back(code=idp.code(request), **query), 400, "interaction_expired")
    assert len(idp.forms) == asked


async def test_fifty_callbacks_at_once_log_in_once_and_ask_the_provider_once(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    request = await lab.request()
    query: dict[str, Any] = {"state": request["state"], "iss": idp.url, "code": idp.code(request)}
    answers = await asyncio.gather(*(lab.come_back(**query) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [303] + [400] * 49
    assert len(idp.forms) == 1


async def test_a_callback_in_another_browser_logs_nobody_in(lab: UpstreamLab, idp: TestProvider) -> None:
    """Login CSRF: the attacker begins a login and lets the victim's browser finish it, as the attacker."""
    request = await lab.request()
    query: dict[str, Any] = {"state": request["state"], "code": idp.code(request, "mallory"), "iss": idp.url}
    async with lab.browser() as stranger:
        await refused(lab, await lab.come_back(browser=stranger, **query), 400, "interaction_expired")
        await lab.request(browser=stranger)
        await refused(lab, await lab.come_back(browser=stranger, **query), 400, "interaction_expired")
    assert idp.forms == []
    # Nor did that use anything up.
    assert (await lab.come_back(**query)).status_code == 303


@pytest.mark.parametrize("state", ["", "x", "s" * 43, "s" * 44, "../../state", "' OR 1=1 --", "\x00" * 43])
async def test_a_state_that_was_never_given_out_is_refused(lab: UpstreamLab, idp: TestProvider, state: str) -> None:
    request = await lab.request()
    answer = await lab.come_back(state=state, code=idp.code(request), iss=idp.url)
    assert answer.status_code == 400
    assert lab.audit.last.reason in ("interaction_expired", "request_malformed")
    assert idp.forms == []


async def test_one_login_cannot_be_finished_with_anothers_code(lab: UpstreamLab, idp: TestProvider) -> None:
    """Code injection: a code that was stolen elsewhere does not fit this login's verifier, nor its nonce."""
    async with lab.browser() as victim:
        stolen = idp.code(await lab.request(browser=victim), "victim")
    mine = await lab.request()
    answer = await lab.come_back(state=mine["state"], code=stolen, iss=idp.url)
    await refused(lab, answer, 403, "identity_provider_refused")
    assert "invalid_grant" in lab.audit.last.detail


async def test_a_code_whose_pkce_the_provider_does_not_check_fails_by_its_nonce(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    async with lab.browser() as victim:
        stolen = idp.codes[idp.code(await lab.request(browser=victim), "victim")]
    mine = await lab.request()
    code = idp.code(mine)
    idp.codes[code].claims, idp.codes[code].nonce = stolen.claims, stolen.nonce
    answer = await lab.come_back(state=mine["state"], code=code, iss=idp.url)
    await refused(lab, answer, 403, "identity_provider_refused")
    assert "nonce" in lab.audit.last.detail


@pytest.mark.parametrize(
    "query",
    [
        "state={state}&state={state}&code={code}",
        "state={state}&code={code}&code=other",
        "state={state}&code={code}&iss={iss}&iss={iss}",
        "state={state}",
        "state={state}&code={code}&error=access_denied",
        "state={state}&code=",
        "state={state}&code=%FF",
        "",
        "&&&",
    ],
)
async def test_a_response_that_could_be_read_in_two_ways_is_refused(
    lab: UpstreamLab, idp: TestProvider, query: str
) -> None:
    request = await lab.request()
    text = query.format(state=request["state"], code=idp.code(request), iss=idp.url)
    answer = await lab.http.get(f"/login/callback/acme-idp?{text}")
    assert answer.status_code == 400
    assert idp.forms == []


async def test_the_callback_takes_no_form(lab: UpstreamLab, idp: TestProvider) -> None:
    request = await lab.request()
    form = {"state": request["state"], "code": idp.code(request), "iss": idp.url}
    assert (await lab.http.post("/login/callback/acme-idp", data=form)).status_code == 405
    assert idp.forms == []


# Mix-up (RFC 9207, RFC 9700 section 4.4)


async def test_a_response_that_another_provider_sends_is_not_answered_with_the_code(
    lab: UpstreamLab, idp: TestProvider, evil: TestProvider
) -> None:
    """The victim chose the evil provider, which sends the browser on to the honest one with its own `state`."""
    request = await lab.request("evil-idp")
    code = idp.code(request, "victim")
    answer = await lab.come_back("evil-idp", state=request["state"], code=code, iss=idp.url)
    await refused(lab, answer, 403, "identity_provider_refused")
    assert "mixed-up" in lab.audit.last.detail
    assert (evil.forms, idp.forms) == ([], [])


async def test_a_code_that_comes_to_another_providers_redirect_uri_goes_nowhere(
    lab: UpstreamLab, idp: TestProvider, evil: TestProvider
) -> None:
    """The same, where the honest provider says nothing of itself: its redirect URI tells them apart."""
    idp.changes["authorization_response_iss_parameter_supported"] = None
    evil.changes["authorization_response_iss_parameter_supported"] = None
    request = await lab.request("evil-idp")
    answer = await lab.come_back("acme-idp", state=request["state"], code=idp.code(request, "victim"))
    await refused(lab, answer, 403, "identity_provider_refused")
    assert "began at evil-idp" in lab.audit.last.detail
    # And that state is of no more use.
    again = await lab.come_back("evil-idp", state=request["state"], code=idp.code(request, "victim"))
    await refused(lab, again, 400, "interaction_expired")
    assert (evil.forms, idp.forms) == ([], [])


@pytest.mark.parametrize("sender", [None, "", "https://evil.example", "{url}/", "{url}x"])
async def test_a_response_must_name_the_provider_that_says_so_of_itself(
    lab: UpstreamLab, idp: TestProvider, sender: str | None
) -> None:
    for outcome in ("code", "error"):
        request = await lab.request()
        query: dict[str, Any] = {
            "state": request["state"],
            outcome: idp.code(request) if outcome == "code" else "access_denied",
        }
        if sender is not None:
            query["iss"] = sender.format(url=idp.url)
        await refused(lab, await lab.come_back(**query), 403, "identity_provider_refused")
        assert "iss" in lab.audit.last.detail
    assert idp.forms == []


@pytest.mark.parametrize("issuer", ["https://evil.example", "{url}/", "", None])
async def test_metadata_of_another_issuer_is_none(lab: UpstreamLab, idp: TestProvider, issuer: str | None) -> None:
    idp.changes["issuer"] = issuer and issuer.format(url=idp.url)
    await refused(lab, await lab.begin(), 503, "identity_provider_unavailable")
    assert "another issuer" in lab.audit.last.detail


# The ID token


async def log_in(lab: UpstreamLab, idp: TestProvider, **claims: Any) -> Any:
    request = await lab.request(idp.name)
    return await lab.come_back(idp.name, state=request["state"], code=idp.code(request, **claims), iss=idp.url)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "another-client"}, "audience_mismatch"),
        ({"aud": [CLIENT, "another-client"], "azp": CLIENT}, "audience_mismatch"),
        ({"aud": CLIENT, "azp": "another-client"}, "audience_mismatch"),
        ({"iss": "https://evil.example"}, "issuer_unknown"),
        ({"exp": 1}, "token_expired"),
        ({"iat": 1}, "token_expired"),
        ({"nonce": None}, "claim_invalid"),
        ({"nonce": "n"}, "claim_invalid"),
        ({"sub": None}, "claim_missing"),
        ({"at_hash": "AAAA"}, "claim_invalid"),
        ({"typ": "Bearer"}, "token_type_refused"),
    ],
)
async def test_an_id_token_that_is_not_this_logins_is_refused(
    lab: UpstreamLab, idp: TestProvider, claims: dict[str, Any], reason: str
) -> None:
    idp.claims.update(claims)
    await refused(lab, await log_in(lab, idp, **claims), 403, "identity_provider_refused")
    assert reason in lab.audit.last.detail


async def test_no_algorithm_but_the_configured_ones_and_no_key_of_the_tokens_own(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    other = new_key()
    claims = {"aud": CLIENT, "iss": idp.url, "sub": "alice"}

    def part(value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    def none(nonce: str) -> str:
        return f"{part({'alg': 'none'})}.{part({**claims, 'nonce': nonce})}."

    def embedded(nonce: str) -> str:
        header = {"alg": "ES256", "kid": "p1", "jwk": other.as_dict(private=False)}
        return sign(header, {**claims, "nonce": nonce}, other, "ES256")

    def foreign(nonce: str) -> str:
        return sign({"alg": "ES256", "kid": "p1"}, {**claims, "nonce": nonce}, other, "ES256")

    def rsa(nonce: str) -> str:
        return sign({"alg": "RS256", "kid": "p1"}, {**claims, "nonce": nonce}, new_key("RS256"), "RS256")

    def hmac(nonce: str) -> str:
        return f"{part({'alg': 'HS256', 'kid': 'p1'})}.{part({**claims, 'nonce': nonce})}.{part('x')}"

    for forge, reason in (
        (none, "token_malformed"),
        (embedded, "token_header_refused"),
        (foreign, "signature_invalid"),
        (rsa, "token_algorithm_refused"),
        (hmac, "token_algorithm_refused"),
    ):
        request = await lab.request()
        idp.answer = lambda form, good, forge=forge, nonce=request["nonce"]: (
            200,
            {**good, "id_token": forge(nonce)},
        )
        answer = await lab.come_back(state=request["state"], code=idp.code(request), iss=idp.url)
        await refused(lab, answer, 403, "identity_provider_refused")
        assert reason in lab.audit.last.detail, forge


@pytest.mark.parametrize("kept", [{}, {"access_token": "x"}])
async def test_without_an_id_token_nobody_is_anybody(lab: UpstreamLab, idp: TestProvider, kept: dict[str, str]) -> None:
    idp.answer = lambda form, good: (200, kept)
    await refused(lab, await log_in(lab, idp), 403, "identity_provider_refused")


async def test_one_providers_people_are_not_anothers(lab: UpstreamLab, idp: TestProvider, evil: TestProvider) -> None:
    """The same `sub`, name and groups at two providers are two people."""
    first = await lab.current(await log_in(lab, idp))
    second = await lab.current(await log_in(lab, evil))
    assert first is not None
    assert second is not None
    assert first.subject != second.subject
    names = {login.subject: await lab.users.user("acme", login.subject) for login in (first, second)}
    assert len({user.name for user in names.values() if user is not None}) == 2


async def test_a_provider_lets_nobody_into_another_tenant(lab: UpstreamLab, evil: TestProvider) -> None:
    answer = await lab.begin(tenant="globex")
    assert answer.status_code == 404
    assert lab.audit.last.reason == "not_found"
    request = await lab.request("evil-idp", tenant="globex")
    answer = await lab.come_back("evil-idp", state=request["state"], code=evil.code(request), iss=evil.url)
    login = await lab.current(answer, "globex")
    assert login is not None
    assert login.tenant == "globex"
    assert await lab.current(answer, "acme") is None


# Where the browser goes on to


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example/account",
        "/\\evil.example",
        "/account/../token",
        "/account?x=1",
        "/authorize/consent?request=short",
        f"{TO}&next=https://evil.example",
        f"{TO}\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "",
    ],
)
async def test_a_login_leads_to_our_own_pages_only(lab: UpstreamLab, to: str) -> None:
    answer = await lab.begin(to=to)
    assert answer.status_code == 400
    assert "http-equiv" not in answer.text


async def test_a_login_begins_by_our_own_form_only(lab: UpstreamLab) -> None:
    form = {"tenant": "acme", "to": TO}
    await lab.http.get("/form")
    assert (await lab.http.post("/login/upstream/acme-idp", data=form)).status_code == 403
    assert (await lab.http.get("/login/upstream/acme-idp", params=form)).status_code == 405
    async with lab.browser() as other:
        token = (await other.get("/form")).text
    crossed = await lab.http.post("/login/upstream/acme-idp", data={**form, "form_token": token})
    assert crossed.status_code == 403
    assert (await lab.begin("no-such-idp")).status_code == 404


# What a provider says never reaches a page, and never another host


async def test_what_a_provider_says_is_on_no_page_and_not_on_the_trail(lab: UpstreamLab, idp: TestProvider) -> None:
    loud = "<script>alert(1)</script>"
    request = await lab.request()
    answer = await lab.come_back(state=request["state"], error=loud, error_description=loud, iss=idp.url)
    await refused(lab, answer, 403, "identity_provider_refused")
    assert "alert(1)" not in answer.text + str(lab.audit.events)
    idp.answer = lambda form, good: (400, {"error": loud, "error_description": loud})
    answer = await log_in(lab, idp)
    await refused(lab, answer, 403, "identity_provider_refused")
    assert "alert(1)" not in answer.text + str(lab.audit.events)


@pytest.mark.parametrize(
    "endpoint",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "http://evil.example/auth",
        "https://evil.example\\@login.example/",
        "https://user@login.example/auth",
        "https://login.example/auth#fragment",
        "https://login.example/a b",
        "https://[::1/auth",
        "//login.example/auth",
        "",
        "https://login.example/" + "a" * 4096,
    ],
)
async def test_a_browser_is_sent_to_plain_https_urls_only(lab: UpstreamLab, idp: TestProvider, endpoint: str) -> None:
    idp.changes["authorization_endpoint"] = endpoint
    await refused(lab, await lab.begin(), 503, "identity_provider_unavailable")


INSIDE = [
    "https://127.0.0.1:1/x",
    "https://localhost:1/x",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/x",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[64:ff9b::7f00:1]/x",
    "https://2130706433/x",
    "https://0x7f.1/x",
]


@pytest.mark.parametrize("inside", INSIDE)
async def test_a_token_endpoint_inside_gets_neither_code_nor_secret(
    lab: UpstreamLab, idp: TestProvider, inside: str
) -> None:
    """The operator vouched for the issuer's host alone; its metadata may name public hosts besides, none inside."""
    request = await lab.request()
    lab.providers[0]._expires = 0.0
    idp.changes["token_endpoint"] = inside
    answer = await lab.come_back(state=request["state"], code=idp.code(request), iss=idp.url)
    await refused(lab, answer, 503, "identity_provider_unavailable")
    assert re.search("may not be fetched from|neither a name nor", lab.audit.last.detail)
    assert SECRET not in str(lab.audit.events)


@pytest.mark.parametrize("inside", INSIDE)
async def test_keys_inside_are_not_fetched(lab: UpstreamLab, idp: TestProvider, inside: str) -> None:
    idp.changes["jwks_uri"] = inside
    await refused(lab, await log_in(lab, idp), 503, "identity_provider_unavailable")
    assert re.search("may not be fetched from|neither a name nor", lab.audit.last.detail)


async def test_another_port_of_the_issuers_host_is_another_server(lab: UpstreamLab, idp: TestProvider) -> None:
    async with RawServer(answering(http_answer(b"{}"))) as inside:
        request = await lab.request()
        lab.providers[0]._expires = 0.0
        idp.changes["token_endpoint"] = f"{inside.url}/token"
        answer = await lab.come_back(state=request["state"], code=idp.code(request), iss=idp.url)
        await refused(lab, answer, 503, "identity_provider_unavailable")
        assert "an endpoint is not https" in lab.audit.last.detail
        assert inside.connections == 0


async def test_a_redirect_of_the_token_endpoint_is_not_followed(lab: UpstreamLab, idp: TestProvider) -> None:
    for status in (301, 302, 307, 308):
        idp.answer = lambda form, good, status=status: (status, good)
        await refused(lab, await log_in(lab, idp), 503, "identity_provider_unavailable")


async def test_a_huge_answer_is_cut_off(lab: UpstreamLab, idp: TestProvider) -> None:
    idp.answer = lambda form, good: (200, b'{"id_token": "' + b"a" * 200_000 + b'"}')
    await refused(lab, await log_in(lab, idp), 503, "identity_provider_unavailable")
    assert "larger than" in lab.audit.last.detail


# Refresh tokens of the provider


async def test_a_refresh_token_is_shown_to_its_own_provider_only(
    tmp_path: Path, clock: StepClock, idp: TestProvider, evil: TestProvider
) -> None:
    """A configuration that gives the provider's name to another issuer does not give it the tokens."""
    async with open_upstream_lab(tmp_path, clock, rules_for(idp)) as lab:
        upstream = await lab.upstream(idp)
    clock.seconds += 60
    swapped = rules_for(evil, name=idp.name)
    other_client = rules_for(idp, id_token=IdTokenRules(idp.url, "other", frozenset({Algorithm.ES256})))
    async with open_upstream_lab(tmp_path, clock, swapped, other_client) as lab:
        with pytest.raises(GateError) as refusal:
            await lab.grants.confirm(upstream, clock.now())
    assert refusal.value.code is ErrorCode.GRANT_INVALID
    assert evil.requests == []
    assert len(idp.forms) == 1


async def test_a_refresh_token_moved_to_another_grant_does_not_open(
    lab: UpstreamLab, idp: TestProvider, clock: StepClock
) -> None:
    """Whoever can write to the store cannot put a colleague's token in place of the own, revoked one."""
    from sqlalchemy import select, update

    from twogate.stores.sql.engine import writing
    from twogate.stores.sql.tables import upstream_grants

    mine, theirs = await lab.upstream(idp, subject="mallory"), await lab.upstream(idp, subject="alice")
    async with writing(lab.engine) as connection:
        token = select(upstream_grants.c.refresh_token).where(upstream_grants.c.id == theirs).scalar_subquery()
        await connection.execute(
            update(upstream_grants).where(upstream_grants.c.id == mine).values(refresh_token=token)
        )
    clock.seconds += 60
    with pytest.raises(GateError) as refusal:
        await lab.grants.confirm(mine, clock.now())
    assert refusal.value.code is ErrorCode.KEYS_UNAVAILABLE


async def test_nothing_secret_is_in_any_event(lab: UpstreamLab, idp: TestProvider, clock: StepClock) -> None:
    request = await lab.request()
    code = idp.code(request)
    answer = await lab.come_back(state=request["state"], code=code, iss=idp.url)
    login = await lab.current(answer)
    assert login is not None
    assert login.upstream is not None
    tokens = set(idp.live)
    clock.seconds += 60
    await lab.grants.confirm(login.upstream, clock.now())
    idp.gone.add("alice")
    clock.seconds += 60
    with pytest.raises(GateError) as refusal:
        await lab.grants.confirm(login.upstream, clock.now())
    told = f"{lab.audit.events}{refusal.value}{refusal.value!r}"
    for secret in (SECRET, code, request["state"], request["nonce"], idp.forms[0]["code_verifier"], *tokens, *idp.live):
        assert secret not in told
