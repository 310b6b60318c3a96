"""Logging in through an upstream provider, and asking it again at each refresh."""

from __future__ import annotations

import asyncio
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from tokenlab import ISSUER, StepClock
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.confirmed_logins import ConfirmedLogins
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.upstream_grants import ASKING, FRESH
from twogate.flows.authserver.upstream_provider import DEFAULT_MAX_AGE
from twogate.stores.sql.engine import writing
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.tables import upstream_grants, users
from twogate.stores.sql.upstream_grants import SqlUpstreamGrantStore
from upstreamlab import (
    CLIENT,
    INTERACTION,
    LIFETIMES,
    TO,
    TestProvider,
    UpstreamLab,
    open_upstream_lab,
    rules_for,
    s256,
)


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


@pytest.fixture
async def idp(clock: StepClock) -> AsyncIterator[TestProvider]:
    async with TestProvider(clock) as made:
        yield made


@pytest.fixture
async def lab(tmp_path: Path, clock: StepClock, idp: TestProvider) -> AsyncIterator[UpstreamLab]:
    async with open_upstream_lab(tmp_path, clock, rules_for(idp)) as made:
        yield made


async def confirm(lab: UpstreamLab, upstream: str) -> ErrorCode | None:
    """What a refresh would be told."""
    try:
        await lab.grants.confirm(upstream, lab.clock.now())
    except GateError as error:
        return error.code
    return None


# The way out.


async def test_a_tenants_login_page_lists_its_providers(tmp_path: Path, clock: StepClock, idp: TestProvider) -> None:
    other = rules_for(idp, name="other", tenants=frozenset({"globex"}), label="Globex")
    async with open_upstream_lab(tmp_path, clock, rules_for(idp), other) as lab:
        assert lab.logins.providers_of("acme") == [("/login/upstream/acme-idp", "Acme <account>")]
        assert lab.logins.providers_of("globex") == [("/login/upstream/other", "Globex")]
        assert lab.logins.providers_of("initech") == []


async def test_the_browser_is_sent_on_with_state_nonce_and_pkce(lab: UpstreamLab, idp: TestProvider) -> None:
    first, second = await lab.request(), await lab.request()
    for request in (first, second):
        random = {name: request[name] for name in ("state", "nonce", "code_challenge")}
        assert all(len(value) == 43 for value in random.values())
        assert {name: request[name] for name in request.keys() - random.keys()} == {
            "endpoint": f"{idp.url}/auth",
            "response_type": "code",
            "client_id": CLIENT,
            "redirect_uri": "https://mcp.example.com/login/callback/acme-idp",
            "scope": "openid profile",
            "code_challenge_method": "S256",
        }
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]


async def test_the_page_in_between_moves_on_by_itself_and_says_where_to(lab: UpstreamLab) -> None:
    answer = await lab.begin()
    assert "Acme &lt;account&gt;" in answer.text
    assert "<script" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "form-action 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"


async def test_an_operators_parameters_go_along_and_a_fresh_login_is_asked_for_where_it_is_needed(
    tmp_path: Path, clock: StepClock, idp: TestProvider
) -> None:
    idp.changes["authorization_endpoint"] = f"{idp.url}/auth?p=b2c"
    google = rules_for(idp, parameters={"access_type": "offline", "prompt": "consent"}, scopes=("openid", "email"))
    async with open_upstream_lab(tmp_path, clock, google) as lab:
        request = await lab.request(again="1")
        assert (request["p"], request["access_type"], request["prompt"]) == ("b2c", "offline", "consent")
        assert (request["max_age"], request["scope"]) == ("0", "openid email")
        assert "max_age" not in await lab.request()
    async with open_upstream_lab(tmp_path, clock, rules_for(idp)) as lab:
        request = await lab.request(again="1")
        assert (request["prompt"], request["max_age"]) == ("login", "0")


async def test_metadata_is_fetched_once_while_it_is_fresh(lab: UpstreamLab, idp: TestProvider) -> None:
    for _ in range(3):
        await lab.request()
    assert [target for _, target in idp.requests] == ["/acme-idp/.well-known/openid-configuration"]
    lab.clock.seconds += int(DEFAULT_MAX_AGE)
    await lab.request()
    assert len(idp.requests) == 2


async def test_a_provider_that_is_away_is_said_to_be(lab: UpstreamLab, idp: TestProvider) -> None:
    await idp.stop()
    answer = await lab.begin()
    assert answer.status_code == 503
    assert "identity provider cannot be reached" in answer.text
    assert lab.audit.last.kind is EventKind.LOGIN_REFUSED
    assert lab.audit.last.reason == "identity_provider_unavailable"


# The way back.


async def test_a_person_logs_in_and_goes_on_to_where_the_login_was_needed(lab: UpstreamLab, idp: TestProvider) -> None:
    answer = await lab.log_in(idp, groups=["staff", "analysts", "elsewhere"])
    assert (answer.status_code, answer.headers["location"]) == (303, ISSUER + TO)
    cookie = answer.headers.get_list("set-cookie")[-1]
    assert cookie.startswith("__Host-twogate-login=")
    for attribute in ("HttpOnly", "Secure", "SameSite=lax", "Path=/", f"Max-Age={LIFETIMES.login}"):
        assert attribute in cookie
    login = await lab.current(answer)
    assert login is not None
    assert (login.tenant, login.method, login.ends_at) == ("acme", "upstream", None)
    assert login.authenticated_at == lab.clock.now()
    user = await lab.users.user("acme", login.subject)
    assert user is not None
    assert (user.display_name, user.provider, user.groups) == ("Alice Liddell", idp.url, ("analysts", "staff"))
    event = lab.audit.last
    assert (event.kind, event.user, event.method) == (EventKind.LOGIN_SUCCEEDED, login.subject, "upstream")
    assert idp.forms[-1]["code_verifier"] not in str(lab.audit.events)


async def test_the_same_person_stays_the_same_and_another_is_another(lab: UpstreamLab, idp: TestProvider) -> None:
    first = await lab.current(await lab.log_in(idp))
    again = await lab.current(await lab.log_in(idp, groups=["staff"], name="Alice L."))
    other = await lab.current(await lab.log_in(idp, "bob", preferred_username="alice"))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.subject == again.subject != other.subject
    user = await lab.users.user("acme", first.subject)
    assert user is not None
    assert user.display_name == "Alice L."


async def test_when_the_person_authenticated_is_the_providers_word(lab: UpstreamLab, idp: TestProvider) -> None:
    login = await lab.current(await lab.log_in(idp, auth_time=lab.clock.now() - 500))
    assert login is not None
    assert login.authenticated_at == lab.clock.now() - 500


async def test_without_a_refresh_token_everything_ends_after_an_hour(lab: UpstreamLab, idp: TestProvider) -> None:
    idp.refresh_tokens = False
    login = await lab.current(await lab.log_in(idp))
    assert login is not None
    assert login.upstream is not None
    assert login.ends_at == lab.clock.now() + LIFETIMES.grant_without_refresh
    assert await confirm(lab, login.upstream) is None
    lab.clock.seconds = login.ends_at
    assert await confirm(lab, login.upstream) is ErrorCode.GRANT_INVALID


async def test_an_unfinished_login_can_be_ended_in_its_time_only(lab: UpstreamLab, idp: TestProvider) -> None:
    early, late = await lab.request(), await lab.request()
    lab.clock.seconds += INTERACTION - 1
    done = await lab.come_back(state=early["state"], code=idp.code(early), iss=idp.url)
    assert done.status_code == 303
    lab.clock.seconds += 1
    answer = await lab.come_back(state=late["state"], code=idp.code(late), iss=idp.url)
    assert answer.status_code == 400
    assert lab.reasons() == ["interaction_expired"]


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"groups": ["elsewhere"]}, "none of the allowed groups"),
        ({"groups": None}, "none of the allowed groups"),
        ({"groups": "staff analysts"}, "none of the allowed groups"),
        ({"groups": {"staff": True}}, "claim /groups is not a list"),
        ({"groups": ["staff", 7]}, "claim /groups holds something else"),
        ({"preferred_username": None}, "no claim /preferred_username"),
        ({"preferred_username": 7}, "claim /preferred_username"),
        ({"name": ["Alice"]}, "claim /name"),
    ],
)
async def test_a_person_whom_the_configuration_does_not_let_in_stays_out(
    lab: UpstreamLab, idp: TestProvider, claims: dict[str, Any], detail: str
) -> None:
    answer = await lab.log_in(idp, **claims)
    assert answer.status_code == 403
    assert "did not let this person in" in answer.text
    assert detail in lab.audit.last.detail
    assert await lab.current(answer) is None
    assert await lab.users.by_identity(idp.url, "alice", "acme") is None


async def test_one_string_is_one_group(lab: UpstreamLab, idp: TestProvider) -> None:
    """As Google's `hd` is, which says for which domain it vouches."""
    login = await lab.current(await lab.log_in(idp, groups="staff"))
    assert login is not None
    user = await lab.users.user("acme", login.subject)
    assert user is not None
    assert user.groups == ("staff",)


async def test_anyone_comes_in_only_where_that_is_said(tmp_path: Path, clock: StepClock, idp: TestProvider) -> None:
    async with open_upstream_lab(tmp_path, clock, rules_for(idp, allowed_groups=None)) as lab:
        assert (await lab.log_in(idp, groups=None)).status_code == 303
    with pytest.raises(ValueError, match="empty list"):
        rules_for(idp, allowed_groups=frozenset())


async def test_a_person_who_says_no_at_the_provider_is_told_so(lab: UpstreamLab, idp: TestProvider) -> None:
    request = await lab.request()
    answer = await lab.come_back(state=request["state"], error="access_denied", iss=idp.url)
    assert answer.status_code == 403
    assert lab.audit.last.detail == "the provider said access_denied"
    # The state is used up by the refusal.
    again = await lab.come_back(state=request["state"], code=idp.code(request), iss=idp.url)
    assert again.status_code == 400


async def test_nobody_is_logged_in_whose_login_cannot_be_written_down(lab: UpstreamLab, idp: TestProvider) -> None:
    request = await lab.request()
    lab.audit.broken = True
    answer = await lab.come_back(state=request["state"], code=idp.code(request), iss=idp.url)
    assert answer.status_code == 503
    assert await lab.current(answer) is None


async def test_the_secret_goes_into_the_body_where_the_provider_takes_nothing_else(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    idp.changes["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    request = await lab.request()
    await lab.come_back(state=request["state"], code=idp.code(request), iss=idp.url)
    assert idp.forms[-1]["client_secret"] == "a secret: with+odd &characters%"


# Asking again.


async def test_a_refresh_asks_the_provider_and_keeps_its_new_token(lab: UpstreamLab, idp: TestProvider) -> None:
    upstream = await lab.upstream(idp)
    for _ in range(3):
        lab.clock.seconds += FRESH
        before = set(idp.live)
        assert await confirm(lab, upstream) is None
        assert len(idp.live) == 1
        assert before.isdisjoint(idp.live)
    assert [form["grant_type"] for form in idp.forms] == ["authorization_code", *["refresh_token"] * 3]


async def test_a_provider_that_does_not_rotate_is_asked_with_the_same_token(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    upstream = await lab.upstream(idp)
    idp.rotates = False
    for _ in range(2):
        lab.clock.seconds += FRESH
        assert await confirm(lab, upstream) is None
    assert idp.forms[-1]["refresh_token"] == idp.forms[-2]["refresh_token"]


async def test_what_was_heard_a_moment_ago_counts(lab: UpstreamLab, idp: TestProvider) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH - 1
    assert await confirm(lab, upstream) is None
    assert len(idp.forms) == 1


async def test_of_many_refreshes_at_once_one_asks(lab: UpstreamLab, idp: TestProvider) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    idp.hold = asyncio.Event()
    # As many processes as this has instances: they share nothing but the store.
    instances = [lab.make_grants() for _ in range(4)]
    waiting = [asyncio.create_task(grants.confirm(upstream, lab.clock.now())) for grants in instances for _ in range(5)]
    async with asyncio.timeout(10):
        while len(idp.forms) < 2:
            await asyncio.sleep(0.005)
    idp.hold.set()
    await asyncio.gather(*waiting)
    assert len(idp.forms) == 2
    assert len(idp.live) == 1


async def test_a_person_who_is_gone_loses_everything(lab: UpstreamLab, idp: TestProvider) -> None:
    answer = await lab.log_in(idp)
    login = await lab.current(answer)
    assert login is not None
    assert login.upstream is not None
    idp.gone.add("alice")
    lab.clock.seconds += FRESH
    assert await confirm(lab, login.upstream) is ErrorCode.GRANT_INVALID
    assert await lab.current(answer) is None
    event = lab.audit.last
    assert (event.kind, event.user, event.reason) == (
        EventKind.GRANT_REVOKED,
        login.subject,
        "identity_provider_refused",
    )
    assert "<b>" not in str(lab.audit.events)
    # For ever: coming back to the provider is another login.
    idp.gone.clear()
    assert await confirm(lab, login.upstream) is ErrorCode.GRANT_INVALID
    assert len(idp.forms) == 2


async def test_while_the_provider_is_away_nothing_is_given_and_nothing_is_lost(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    idp.answer = lambda form, answer: (503, {})
    assert await confirm(lab, upstream) is ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE
    assert len(idp.live) == 1
    grant = await SqlUpstreamGrantStore(lab.engine).get(upstream)
    assert grant is not None
    assert grant.ended_at is None


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, {"error": "invalid_client"}),
        (400, {"error": "unauthorized_client"}),
        (429, {"error": "slow_down"}),
        (404, {}),
        (400, b"<html>invalid_grant</html>"),
        (400, {"error": ["invalid_grant"]}),
        (200, b"[]"),
        (200, {"refresh_token": 7}),
        (200, {"refresh_token": "with blanks in it"}),
        (302, {}),
    ],
)
async def test_an_answer_that_says_nothing_of_the_person_ends_nothing(
    lab: UpstreamLab, idp: TestProvider, status: int, answer: Any
) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    idp.rotates = False
    idp.answer = lambda form, good: (status, answer)
    assert await confirm(lab, upstream) is ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE
    idp.answer = None
    assert await confirm(lab, upstream) is None


async def test_groups_are_read_anew_and_who_is_in_none_of_them_any_more_is_out(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    login = await lab.current(await lab.log_in(idp, groups=["staff", "analysts"]))
    assert login is not None
    assert login.upstream is not None
    lab.clock.seconds += FRESH
    idp.claims["groups"] = ["staff"]
    assert await confirm(lab, login.upstream) is None
    user = await lab.users.user("acme", login.subject)
    assert user is not None
    assert user.groups == ("staff",)
    lab.clock.seconds += FRESH
    idp.claims["groups"] = ["analysts"]
    assert await confirm(lab, login.upstream) is ErrorCode.GRANT_INVALID
    user = await lab.users.user("acme", login.subject)
    assert user is not None
    assert user.groups == ("analysts",)


async def test_without_a_new_id_token_the_known_groups_are_judged(lab: UpstreamLab, idp: TestProvider) -> None:
    idp.refresh_id_token = False
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    assert await confirm(lab, upstream) is None
    lab.providers[0].rules = rules_for(idp, allowed_groups=frozenset({"board"}))
    assert await confirm(lab, upstream) is ErrorCode.GRANT_INVALID


async def test_a_new_id_token_of_somebody_else_ends_the_grant(lab: UpstreamLab, idp: TestProvider) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    idp.claims["sub"] = "alice"
    idp.answer = lambda form, good: (200, {**good, "id_token": idp.id_token(None, {"sub": "mallory"})})
    assert await confirm(lab, upstream) is ErrorCode.GRANT_INVALID
    assert await lab.users.by_identity(idp.url, "mallory", "acme") is None


async def test_a_bad_id_token_at_a_refresh_keeps_the_new_refresh_token_and_confirms_nothing(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    idp.claims["aud"] = "another-client"
    assert await confirm(lab, upstream) is ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE
    del idp.claims["aud"]
    assert await confirm(lab, upstream) is None


async def test_a_disabled_person_is_not_confirmed(lab: UpstreamLab, idp: TestProvider) -> None:
    login = await lab.current(await lab.log_in(idp))
    assert login is not None
    assert login.upstream is not None
    await disable(lab, login.subject)
    assert await confirm(lab, login.upstream) is ErrorCode.GRANT_INVALID
    answer = await lab.log_in(idp)
    assert answer.status_code == 403
    assert "disabled" in lab.audit.last.detail
    assert await lab.current(answer) is None


async def disable(lab: UpstreamLab, subject: str) -> None:
    async with writing(lab.engine) as connection:
        await connection.execute(update(users).where(users.c.subject == subject).values(disabled_at=lab.clock.now()))


async def test_where_new_access_begins_a_person_who_is_gone_is_not_logged_in(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    answer = await lab.log_in(idp)
    cookie = answer.cookies["__Host-twogate-login"]
    confirmed = ConfirmedLogins(SqlLoginStore(lab.engine), SystemRng(), LIFETIMES.login, lab.grants)
    lab.clock.seconds += FRESH
    assert await confirmed.current(cookie, "acme", lab.clock.now()) is not None
    assert len(idp.forms) == 2
    lab.clock.seconds += FRESH
    idp.answer = lambda form, good: (503, {})
    idp.rotates = False
    with pytest.raises(GateError) as refused:
        await confirmed.current(cookie, "acme", lab.clock.now())
    assert refused.value.code is ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE
    idp.answer = None
    assert await confirmed.current(cookie, "acme", lab.clock.now()) is not None
    lab.clock.seconds += FRESH
    idp.gone.add("alice")
    assert await confirmed.current(cookie, "acme", lab.clock.now()) is None
    assert await lab.browser_logins.current(cookie, "acme", lab.clock.now()) is None
    local = await lab.browser_logins.begin(
        Login("acme", await some_subject(lab, idp), "password", lab.clock.now()), lab.clock.now()
    )
    assert await confirmed.current(local, "acme", lab.clock.now()) is not None


async def some_subject(lab: UpstreamLab, idp: TestProvider) -> str:
    user = await lab.users.by_identity(idp.url, "alice", "acme")
    assert user is not None
    return user.subject


async def test_a_provider_that_the_operator_took_away_confirms_nobody(lab: UpstreamLab, idp: TestProvider) -> None:
    for changes in (
        {"tenants": frozenset({"globex"})},
        {"id_token": rules_for(idp).id_token.__class__(idp.url, "another", rules_for(idp).id_token.algorithms)},
    ):
        answer = await lab.log_in(idp)
        login = await lab.current(answer)
        assert login is not None
        assert login.upstream is not None
        lab.providers[0].rules = rules_for(idp, **changes)
        assert await confirm(lab, login.upstream) is ErrorCode.GRANT_INVALID
        assert await lab.current(answer) is None
        lab.providers[0].rules = rules_for(idp)
    assert len(idp.forms) == 2


async def test_a_client_that_goes_away_loses_no_rotated_token(lab: UpstreamLab, idp: TestProvider) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    idp.hold = asyncio.Event()
    waiting = asyncio.create_task(lab.grants.confirm(upstream, lab.clock.now()))
    async with asyncio.timeout(10):
        while len(idp.forms) < 2:
            await asyncio.sleep(0.005)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    idp.hold.set()
    await lab.grants.confirm(upstream, lab.clock.now())
    assert len(idp.forms) == 2
    lab.clock.seconds += FRESH
    assert await confirm(lab, upstream) is None


async def test_a_token_that_the_store_did_not_take_is_told_of_and_used_next(
    lab: UpstreamLab, idp: TestProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH

    async def failing(*_: object) -> bool:
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(SqlUpstreamGrantStore, "keep", failing)
        with pytest.raises(GateError, match="new refresh token could not be stored") as refused:
            await lab.grants.confirm(upstream, lab.clock.now())
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    assert await confirm(lab, upstream) is None
    assert len(idp.live) == 1
    lab.clock.seconds += FRESH
    assert await confirm(lab, upstream) is None


async def test_a_process_that_died_while_asking_holds_up_the_others_for_a_while_only(
    lab: UpstreamLab, idp: TestProvider
) -> None:
    upstream = await lab.upstream(idp)
    lab.clock.seconds += FRESH
    store = SqlUpstreamGrantStore(lab.engine)
    grant = await store.get(upstream)
    assert grant is not None
    now = lab.clock.now()
    assert await store.ask(upstream, "the dead", grant.confirmed_at, now, now + ASKING) is not None
    lab.clock.seconds += ASKING
    assert await confirm(lab, upstream) is None


async def test_refresh_tokens_lie_in_the_store_sealed(lab: UpstreamLab, idp: TestProvider, tmp_path: Path) -> None:
    await lab.upstream(idp)
    (token,) = idp.live
    async with lab.engine.connect() as connection:
        (row,) = (await connection.execute(select(upstream_grants.c.refresh_token))).scalars()
    files = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in tmp_path.glob("twogate.db*")))
    assert row
    for way in (token.encode(), b64encode(token.encode()), urlsafe_b64encode(token.encode()).rstrip(b"=")):
        assert way not in files


def test_the_lab_checks_pkce_itself() -> None:
    assert s256("a" * 43) != s256("b" * 43)
    assert httpx2.URL(TO).path == "/authorize/consent"
