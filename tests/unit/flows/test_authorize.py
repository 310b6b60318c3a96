"""The authorization endpoint's way from request to code: logins, consents, prompts, and everything looked at anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
import msgspec
import pytest
from sqlalchemy import delete, update

from authlab import (
    ASSISTANT,
    INTERACTION_LIFETIME,
    WEB_CALLBACK,
    AuthLab,
    answer,
    hidden_fields,
    open_auth_lab,
)
from tokenlab import FILES, ISSUER
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import CONSENT_PATH
from twogate.flows.authserver.consent import client_digest
from twogate.stores.sql.tables import clients

DETAILS = '[{"type":"mcp_session","task":"review"}]'


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[AuthLab]:
    async with open_auth_lab(tmp_path) as running:
        yield running


@pytest.fixture
async def alice(lab: AuthLab) -> AuthLab:
    """The lab with alice logged in."""
    await lab.log_in(lab.alice)
    return lab


async def change(lab: AuthLab, client_id: str, **values: object) -> None:
    """Change a client's row, as an operator or its own registration would."""
    async with lab.lab.engine.begin() as connection:
        await connection.execute(update(clients).where(clients.c.client_id == client_id).values(**values))


class TestTheWay:
    async def test_nobody_logged_in_is_led_to_the_login_page_and_from_there_to_the_question(self, lab: AuthLab) -> None:
        response = await lab.authorize()
        url = urlsplit(response.headers["location"])
        assert (response.status_code, url.netloc, url.path) == (303, "mcp.example.com", "/login")
        query = parse_qs(url.query)
        assert query.keys() == {"tenant", "to"}
        assert query["tenant"] == ["acme"]
        await lab.log_in(lab.alice)
        page = await lab.consent(response)
        assert page.status_code == 200
        back = answer(await lab.decide(page, "allow"))
        assert back.keys() == {"code", "state", "iss"}
        assert (back["state"], back["iss"]) == ("xyz", ISSUER)

    async def test_a_code_gives_a_token_of_the_person_for_what_was_asked(self, alice: AuthLab) -> None:
        code = await alice.code(scope="reports", authorization_details=DETAILS)
        token = await alice.redeem(code)
        assert token.status_code == 200, token.text
        claims = jwt.decode(token.json()["access_token"], options={"verify_signature": False})
        assert (claims["aud"], claims["sub"], claims["user"]) == (FILES, alice.alice.subject, alice.alice.subject)
        assert (claims["scope"], claims["auth_time"]) == ("reports", alice.lab.clock.now())
        assert claims["sid"]
        assert "refresh_token" in token.json()

    async def test_what_was_granted_carries_the_login_behind_it(self, lab: AuthLab) -> None:
        ends_at = lab.lab.clock.now() + 100
        await lab.log_in(lab.alice, upstream="u-1", ends_at=ends_at)
        token = await lab.redeem(await lab.code())
        (family,) = await lab.lab.families.list_for_user("acme", lab.alice.subject, lab.lab.clock.now())
        assert (family.authorization.upstream, family.authorization.ends_at) == ("u-1", ends_at)
        assert family.authorization.authenticated_at == lab.lab.clock.now()
        assert token.json()["expires_in"] == 100

    async def test_the_redirect_uri_may_be_left_out_if_there_is_one(self, alice: AuthLab) -> None:
        response = await alice.decide(await alice.consent(await alice.authorize(redirect_uri=None)), "allow")
        assert response.headers["location"].startswith(f"{WEB_CALLBACK}?")
        token = await alice.redeem(answer(response)["code"], redirect_uri=None)
        assert token.status_code == 200, token.text

    async def test_a_registered_query_is_kept(self, alice: AuthLab) -> None:
        uri = "https://app.example/other?tenant=a"
        response = await alice.decide(await alice.consent(await alice.authorize("two", redirect_uri=uri)), "allow")
        assert response.headers["location"].startswith(f"{uri}&code=")

    async def test_an_agent_may_use_the_flow_if_its_grants_say_so(self, alice: AuthLab) -> None:
        token = await alice.redeem(await alice.code("agent"), "agent")
        assert token.status_code == 200, token.text

    async def test_a_form_is_served_as_a_query(self, alice: AuthLab) -> None:
        posted = await alice.http.post("/authorize", data=alice.parameters(state="a b&c"))
        assert posted.status_code == 303
        url = urlsplit(posted.headers["location"])
        assert (url.netloc, url.path) == ("mcp.example.com", "/authorize")
        back = answer(await alice.decide(await alice.consent(await alice.ask(url.query)), "allow"))
        assert back["state"] == "a b&c"

    async def test_the_decision_is_on_the_audit_trail(self, alice: AuthLab) -> None:
        await alice.code(scope="reports", authorization_details=DETAILS)
        event = alice.lab.audit.last
        assert event.kind is EventKind.AUTHORIZATION_GRANTED
        assert (event.tenant, event.agent, event.client, event.user) == (
            "acme",
            "assistant",
            "web",
            alice.alice.subject,
        )
        assert (event.task, event.detail, event.address) == ("review", f"{FILES} scope reports", "203.0.113.7")

    async def test_a_person_may_say_no(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        back = answer(await alice.decide(page, "deny"))
        assert (back["error"], back["state"], back["iss"]) == ("access_denied", "xyz", ISSUER)
        event = alice.lab.audit.last
        assert (event.kind, event.reason) == (EventKind.AUTHORIZATION_REFUSED, "access_denied")
        assert event.user == alice.alice.subject
        assert (await alice.decide(page, "allow")).status_code == 400


class TestConsents:
    async def test_who_has_allowed_it_is_not_asked_again(self, alice: AuthLab) -> None:
        await alice.code(scope="reports admin")
        for scope in ("reports admin", "reports", None):
            back = answer(await alice.authorize(scope=scope))
            assert "code" in back
        assert alice.lab.audit.last.detail.endswith("by an earlier consent")

    @pytest.mark.parametrize(
        "changes",
        [
            {"scope": "reports admin"},
            {"resource": f"{ISSUER}/mcp/git"},
            {"authorization_details": DETAILS},
            {"prompt": "consent"},
        ],
    )
    async def test_more_is_asked_anew(self, alice: AuthLab, changes: dict[str, str]) -> None:
        await alice.code(scope="reports")
        page = await alice.consent(await alice.authorize(**{"scope": "reports", **changes}))
        assert page.status_code == 200
        assert "decision" in page.text

    @pytest.mark.parametrize(
        "change_of_client",
        [
            {"name": "Acme Desk 2"},
            {"redirect_uris": '["https://app.example/callback","https://evil.example/cb"]'},
            {"method": "private_key_jwt", "secret_digests": "[]", "jwks": '{"keys":[]}'},
            {"method": "none", "secret_digests": "[]"},
        ],
    )
    async def test_a_changed_client_is_allowed_anew(self, alice: AuthLab, change_of_client: dict[str, str]) -> None:
        await alice.code()
        await change(alice, "web", **change_of_client)
        assert "decision" in (await alice.consent(await alice.authorize())).text

    async def test_another_secret_of_the_same_client_is_no_change(self, alice: AuthLab) -> None:
        client = await alice.lab.clients.get("web")
        assert client is not None
        other = msgspec.structs.replace(client, secret_digests=(), auth=client.auth.NONE)
        assert client_digest(other) != client_digest(client)
        digests = tuple(msgspec.structs.replace(secret, expires_at=5) for secret in client.secret_digests)
        assert client_digest(msgspec.structs.replace(client, secret_digests=digests)) == client_digest(client)

    async def test_another_person_is_asked(self, alice: AuthLab) -> None:
        await alice.code()
        await alice.log_in(alice.bob)
        assert "decision" in (await alice.consent(await alice.authorize())).text

    @pytest.mark.parametrize(("client_id", "asked"), [("native", True), ("app", True), ("spa", False)])
    async def test_programs_on_a_device_that_prove_nothing_are_asked_about_each_time(
        self,
        alice: AuthLab,
        client_id: str,
        asked: bool,
    ) -> None:
        await alice.code(client_id)
        response = await alice.authorize(client_id)
        assert (urlsplit(response.headers["location"]).path == CONSENT_PATH) is asked
        if asked:
            page = await alice.consent(response)
            assert "you are asked each time" in page.text
            answer_again = await alice.decide(page, "allow")
            assert "code" in parse_qs(urlsplit(answer_again.headers["location"]).query)

    async def test_a_withdrawn_consent_is_asked_for_anew(self, alice: AuthLab) -> None:
        await alice.code()
        (consent,) = await alice.consents.list_for_user("acme", alice.alice.subject)
        assert (consent.client_id, consent.resource, consent.task, consent.scopes) == ("web", FILES, "", ())
        assert await alice.consents.withdraw("acme", alice.alice.subject, "web", "203.0.113.9") == 1
        event = alice.lab.audit.last
        assert (event.kind, event.client, event.address) == (EventKind.CONSENT_WITHDRAWN, "web", "203.0.113.9")
        assert "decision" in (await alice.consent(await alice.authorize())).text

    async def test_a_refusal_is_not_remembered(self, alice: AuthLab) -> None:
        await alice.decide(await alice.consent(await alice.authorize()), "deny")
        assert await alice.consents.list_for_user("acme", alice.alice.subject) == []
        assert "decision" in (await alice.consent(await alice.authorize())).text

    async def test_given_compares_all_of_it(self, alice: AuthLab) -> None:
        client = await alice.lab.clients.get("web")
        assert client is not None
        await alice.consents.remember(client, "u-1", FILES, "review", ["reports"], 1)
        assert await alice.consents.given(client, "u-1", FILES, "review", [])
        assert await alice.consents.given(client, "u-1", FILES, "review", ["reports"])
        for subject, resource, task, scopes in (
            ("u-2", FILES, "review", []),
            ("u-1", f"{FILES}2", "review", []),
            ("u-1", FILES, None, []),
            ("u-1", FILES, "review", ["reports", "admin"]),
        ):
            assert not await alice.consents.given(client, subject, resource, task, scopes)


class TestPrompts:
    async def test_none_without_a_login(self, lab: AuthLab) -> None:
        back = answer(await lab.authorize(prompt="none"))
        assert (back["error"], back["state"], back["iss"]) == ("login_required", "xyz", ISSUER)
        assert lab.lab.audit.last.reason == ErrorCode.LOGIN_REQUIRED

    async def test_none_without_a_consent(self, alice: AuthLab) -> None:
        back = answer(await alice.authorize(prompt="none"))
        assert (back["error"], back["iss"]) == ("consent_required", ISSUER)

    async def test_none_with_both(self, alice: AuthLab) -> None:
        await alice.code()
        assert "code" in answer(await alice.authorize(prompt="none"))

    async def test_none_with_a_login_that_is_too_old(self, alice: AuthLab) -> None:
        await alice.code()
        alice.lab.clock.seconds += 61
        assert answer(await alice.authorize(prompt="none", max_age="60"))["error"] == "login_required"

    @pytest.mark.parametrize("changes", [{"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}])
    async def test_a_new_login_is_asked_for_and_one_of_before_does_not_do(
        self, alice: AuthLab, changes: dict[str, str]
    ) -> None:
        await alice.code()
        alice.lab.clock.seconds += 5
        response = await alice.authorize(**changes)
        query = parse_qs(urlsplit(response.headers["location"]).query)
        assert query["again"] == ["1"]
        # Going back without having logged in leads to the login page again.
        again = await alice.http.get(query["to"][0])
        assert parse_qs(urlsplit(again.headers["location"]).query) == query
        await alice.log_in(alice.alice)
        moved = await alice.http.get(query["to"][0])
        assert "code=" in moved.headers["refresh"]

    async def test_a_login_within_max_age_does(self, alice: AuthLab) -> None:
        await alice.code()
        alice.lab.clock.seconds += 60
        assert "code" in answer(await alice.authorize(max_age="60"))


class TestComingBack:
    async def test_a_consent_of_before_is_found_after_the_login_and_the_page_moves_on(self, alice: AuthLab) -> None:
        await alice.code()
        await alice.log_out()
        response = await alice.authorize()
        assert urlsplit(response.headers["location"]).path == "/login"
        await alice.log_in(alice.alice)
        moved = await alice.consent(response)
        # A redirect would be held to the form-action of the login page, which cannot name the client.
        assert moved.status_code == 200
        seconds, _, url = moved.headers["refresh"].partition("; url=")
        assert seconds == "0"
        assert parse_qs(urlsplit(url).query)["state"] == ["xyz"]
        assert moved.headers["referrer-policy"] == "same-origin"
        # It was answered: reloading gives nothing more.
        assert (await alice.consent(response)).status_code == 400

    async def test_the_question_can_be_shown_again_until_it_is_answered(self, alice: AuthLab) -> None:
        response = await alice.authorize()
        assert (await alice.consent(response)).status_code == 200
        page = await alice.consent(response)
        assert (await alice.decide(page, "allow")).status_code == 303
        assert (await alice.consent(response)).status_code == 400

    async def test_it_ends_with_its_lifetime(self, alice: AuthLab) -> None:
        response = await alice.authorize()
        page = await alice.consent(response)
        alice.lab.clock.seconds += INTERACTION_LIFETIME
        assert (await alice.decide(page, "allow")).status_code == 400
        assert (await alice.consent(response)).status_code == 400
        assert alice.lab.audit.last.reason == ErrorCode.INTERACTION_EXPIRED

    async def test_of_parallel_decisions_one_passes(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        results = await asyncio.gather(*(alice.decide(page, "allow") for _ in range(10)))
        assert sorted(response.status_code for response in results) == [303] + [400] * 9

    async def test_whoever_logged_in_meanwhile_is_shown_their_own_name_first(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        await alice.log_in(alice.bob)
        again = await alice.decide(page, "allow")
        assert again.status_code == 200
        assert hidden_fields(again.text)["person"] == alice.bob.subject
        assert not any(event.kind is EventKind.AUTHORIZATION_GRANTED for event in alice.lab.audit.events)
        assert (await alice.decide(again, "allow")).status_code == 303
        assert alice.lab.audit.last.user == alice.bob.subject

    async def test_even_if_they_have_allowed_it_before(self, alice: AuthLab) -> None:
        await alice.log_in(alice.bob)
        await alice.code()
        await alice.log_in(alice.alice)
        page = await alice.consent(await alice.authorize())
        await alice.log_in(alice.bob)
        assert hidden_fields((await alice.decide(page, "allow")).text)["person"] == alice.bob.subject

    async def test_who_logged_out_meanwhile_logs_in_again(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        await alice.log_out()
        response = await alice.decide(page, "allow")
        assert urlsplit(response.headers["location"]).path == "/login"
        # Saying no needs nobody.
        assert answer(await alice.decide(page, "deny"))["error"] == "access_denied"

    async def test_a_login_of_another_tenant_is_none(self, lab: AuthLab) -> None:
        await lab.log_in(lab.carol)
        response = await lab.authorize()
        query = parse_qs(urlsplit(response.headers["location"]).query)
        assert query["tenant"] == ["acme"]


class TestEverythingIsLookedAtAnew:
    async def test_a_disabled_person_grants_nothing(self, alice: AuthLab) -> None:
        await alice.code()
        page = await alice.consent(await alice.authorize(prompt="consent"))
        await alice.disable(alice.alice)
        for response in (await alice.decide(page, "allow"), await alice.authorize()):
            url = urlsplit(response.headers["location"])
            assert url.path == "/login" or parse_qs(url.query)["error"] == ["access_denied"]
        assert [event.kind for event in alice.lab.audit.events].count(EventKind.AUTHORIZATION_GRANTED) == 1

    async def test_a_disabled_agent_gets_nothing(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        await alice.lab.registry.disable_agent(ASSISTANT, alice.lab.clock.now())
        assert answer(await alice.decide(page, "allow"))["error"] == "unauthorized_client"
        assert answer(await alice.authorize())["error"] == "unauthorized_client"
        assert alice.lab.audit.last.reason == ErrorCode.AGENT_DISABLED

    async def test_a_client_that_is_gone_is_answered_by_a_page(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        async with alice.lab.engine.begin() as connection:
            await connection.execute(delete(clients).where(clients.c.client_id == "web"))
        response = await alice.decide(page, "allow")
        assert (response.status_code, response.headers.get("location")) == (400, None)
        assert "not registered" in response.text

    async def test_a_redirect_uri_that_is_gone_gets_nothing(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        await change(alice, "web", redirect_uris='["https://app.example/new"]')
        for response in (await alice.decide(page, "allow"), await alice.decide(page, "deny")):
            assert (response.status_code, response.headers.get("location")) == (400, None)
        assert alice.lab.audit.last.reason == ErrorCode.REDIRECT_INVALID

    async def test_a_grant_that_was_taken_away_is_refused(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        await change(alice, "web", grants='["client_credentials"]')
        assert answer(await alice.decide(page, "allow"))["error"] == "unauthorized_client"

    async def test_an_answer_that_failed_is_final(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        await change(alice, "web", grants='["client_credentials"]')
        await alice.decide(page, "allow")
        await change(alice, "web", grants='["authorization_code"]')
        assert (await alice.decide(page, "allow")).status_code == 400


class TestWithoutATrail:
    async def test_nothing_is_granted_that_cannot_be_recorded(self, alice: AuthLab) -> None:
        page = await alice.consent(await alice.authorize())
        alice.lab.audit.broken = True
        response = await alice.decide(page, "allow")
        assert response.status_code == 503
        alice.lab.audit.broken = False
        assert await alice.consents.list_for_user("acme", alice.alice.subject) == []
        assert (await alice.decide(page, "allow")).status_code == 400

    async def test_not_by_an_earlier_consent_either(self, alice: AuthLab) -> None:
        await alice.code()
        alice.lab.audit.broken = True
        assert (await alice.authorize()).status_code == 503

    async def test_a_refusal_says_which_client_was_meant(self, lab: AuthLab) -> None:
        await lab.authorize("nobody")
        event = lab.lab.audit.last
        assert (event.kind, event.client, event.reason) == (
            EventKind.AUTHORIZATION_REFUSED,
            "nobody",
            ErrorCode.CLIENT_INVALID,
        )


class TestErrors:
    """After client and redirect URI hold, errors go back to the client; before, nobody is redirected."""

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"response_type": None}, "invalid_request"),
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"response_mode": "form_post"}, "invalid_request"),
            ({"request": "e30.e30."}, "invalid_request"),
            ({"code_challenge": None}, "invalid_request"),
            ({"code_challenge_method": "plain"}, "invalid_request"),
            ({"resource": None}, "invalid_target"),
            ({"resource": f"{ISSUER}/mcp/mail"}, "invalid_target"),
            ({"resource": f"{FILES}/"}, "invalid_target"),
            ({"scope": "reports everything"}, "invalid_scope"),
            ({"authorization_details": "{}"}, "invalid_authorization_details"),
            (
                {"authorization_details": '[{"type":"mcp_session","task":"other"}]'},
                "invalid_authorization_details",
            ),
            ({"dpop_jkt": "x"}, "invalid_request"),
            ({"prompt": "none login"}, "invalid_request"),
            ({"max_age": "soon"}, "invalid_request"),
        ],
    )
    async def test_go_back_to_the_client_with_state_and_issuer(
        self, alice: AuthLab, changes: dict[str, str | None], error: str
    ) -> None:
        response = await alice.authorize(**changes)
        assert response.headers["location"].startswith(f"{WEB_CALLBACK}?")
        back = answer(response)
        assert back.keys() == {"error", "error_description", "state", "iss"}
        assert (back["error"], back["state"], back["iss"]) == (error, "xyz", ISSUER)
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "no-referrer"

    async def test_say_what_to_mend(self, alice: AuthLab) -> None:
        back = answer(await alice.authorize(code_challenge_method=None))
        assert "PKCE" in back["error_description"]

    async def test_echo_even_a_state_that_is_too_long(self, alice: AuthLab) -> None:
        back = answer(await alice.authorize(state="s" * 2000))
        assert (back["error"], back["state"]) == ("invalid_request", "s" * 2000)

    async def test_operations_are_for_hosts_only(self, alice: AuthLab) -> None:
        operations = f"{ISSUER}/operations"
        assert answer(await alice.authorize("spa", resource=operations))["error"] == "invalid_target"
        assert answer(await alice.authorize("agent", resource=operations))["error"] == "invalid_target"
        page = await alice.consent(await alice.authorize("web", resource=operations))
        assert "one-time permissions" in page.text

    async def test_no_answer_leaves_the_server_if_the_store_is_gone(self, alice: AuthLab) -> None:
        async def gone(*_: object, **__: object) -> str:
            raise GateError(ErrorCode.STORE_UNAVAILABLE)

        alice.endpoint._requests.begin = gone  # type: ignore[method-assign]
        back = answer(await alice.authorize())
        assert (back["error"], back["state"], back["iss"]) == ("temporarily_unavailable", "xyz", ISSUER)
