"""Attacks on the authorization endpoint: each is refused, leads nobody anywhere, and leaves a trail."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx2
import pytest
from sqlalchemy import update

from authlab import (
    CHALLENGE,
    NATIVE_CALLBACK,
    WEB_CALLBACK,
    AuthLab,
    answer,
    hidden_fields,
    open_auth_lab,
)
from dpoplab import Prover, server_nonce
from tokenlab import FILES, ISSUER, SECRET, basic
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.oauth.authorize_request import CONSENT_PATH, REQUEST_URI_PREFIX
from twogate.core.oauth.metadata import PAR_PATH
from twogate.stores.sql.tables import clients


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[AuthLab]:
    """The lab with alice logged in, who has allowed the client `web` everything before."""
    async with open_auth_lab(tmp_path) as running:
        await running.log_in(running.alice)
        await running.code(scope="reports admin")
        yield running


def assert_nowhere(response: httpx2.Response) -> None:
    """A page of ours that leads to no place of the request's."""
    assert response.status_code in (400, 413), response.status_code
    assert "location" not in response.headers
    assert "refresh" not in response.headers
    assert "href" not in re.sub(r"<link[^>]*>", "", response.text)
    assert "evil" not in response.text


def granted(lab: AuthLab) -> int:
    return [event.kind for event in lab.lab.audit.events].count(EventKind.AUTHORIZATION_GRANTED)


class TestRedirectTricks:
    """The client has allowed all, so anything that passed would get a code."""

    @pytest.mark.parametrize(
        "redirect_uri",
        [
            "https://evil.example/callback",
            "https://app.example.evil.example/callback",
            "https://app.example@evil.example/callback",
            "https://evil.example#@app.example/callback",
            "https://evil.example\\@app.example/callback",
            "https://app.example/callback/../evil",
            "https://app.example/callback/%2e%2e/evil",
            "https://app.example/callback/evil",
            "https://app.example/callback%2f..%2fevil",
            "https://app.example/callback?next=https://evil.example",
            "https://app.example/callback#evil",
            "https://app.example//callback",
            "https://app.example/Callback",
            "https://app.example./callback",
            "https://app.example:8443/callback",
            "http://app.example/callback",
            "//app.example/callback",
            "/callback",
            "HTTPS://app.example/callback",
            "https://app.example/callback ",
            " https://app.example/callback",
            "https://app.example/callback\r\nLocation: https://evil.example",
            "https://app.example/callback\x00.evil.example",
            "https://аpp.example/callback",
            "javascript:alert(1)//https://app.example/callback",
            "data:text/html,evil",
            "*",
        ],
    )
    async def test_a_redirect_uri_that_is_not_the_registered_one_leads_nowhere(
        self, lab: AuthLab, redirect_uri: str
    ) -> None:
        assert_nowhere(await lab.authorize(redirect_uri=redirect_uri))
        assert lab.lab.audit.last.reason == ErrorCode.REDIRECT_INVALID
        assert_nowhere(await lab.authorize(redirect_uri=redirect_uri, response_type="token", prompt="none"))

    @pytest.mark.parametrize(
        "redirect_uri",
        [
            "http://127.0.0.1:80@evil.example/callback",
            "http://127.0.0.1.evil.example/callback",
            "http://localhost:8000/callback",
            "http://127.1/callback",
            "http://2130706433/callback",
            "http://0.0.0.0:8000/callback",
            "http://[::ffff:127.0.0.1]:8000/callback",
            "https://127.0.0.1:8000/callback",
            "http://127.0.0.1:8000/callback/evil",
            "http://127.0.0.1:99999/callback",
        ],
    )
    async def test_only_the_port_of_a_loopback_address_is_free(self, lab: AuthLab, redirect_uri: str) -> None:
        assert_nowhere(await lab.authorize("native", redirect_uri=redirect_uri))

    async def test_another_clients_redirect_uri_leads_nowhere(self, lab: AuthLab) -> None:
        assert_nowhere(await lab.authorize("web", redirect_uri=NATIVE_CALLBACK))
        assert_nowhere(await lab.authorize("spa", redirect_uri=WEB_CALLBACK))

    async def test_two_redirect_uris_lead_nowhere(self, lab: AuthLab) -> None:
        good = urlencode(lab.parameters())
        for other in ("https://evil.example/", WEB_CALLBACK, ""):
            assert_nowhere(await lab.ask(f"{good}&redirect_uri={quote(other, safe='')}"))
            assert lab.lab.audit.last.reason == ErrorCode.PARAMETER_REPEATED

    async def test_a_client_without_redirect_uris_leads_nowhere(self, lab: AuthLab) -> None:
        for redirect_uri in (None, "https://evil.example/"):
            assert_nowhere(await lab.authorize("reporter", redirect_uri=redirect_uri))

    @pytest.mark.parametrize("client_id", ["nobody", "", "web\x00", "WEB", "web ", "w" * 2000])
    async def test_an_unknown_client_leads_nowhere(self, lab: AuthLab, client_id: str) -> None:
        parameters = {**lab.parameters(), "client_id": client_id, "redirect_uri": "https://evil.example/"}
        assert_nowhere(await lab.ask(urlencode(parameters)))

    async def test_two_clients_lead_nowhere(self, lab: AuthLab) -> None:
        assert_nowhere(await lab.ask(f"client_id=nobody&{urlencode(lab.parameters())}"))

    async def test_a_page_never_repeats_what_a_stranger_wrote(self, lab: AuthLab) -> None:
        marker = "<script>evil()</script>"
        for name in ("client_id", "redirect_uri", "state", "request_uri", "scope"):
            parameters = {**lab.parameters(), "redirect_uri": "https://x.example/", name: marker}
            assert_nowhere(await lab.ask(urlencode(parameters)))


class TestOpenRedirection:
    """RFC 9700 section 4.11.2: who may register at will gets no redirect for nothing."""

    @pytest.mark.parametrize(
        "changes", [{"scope": "none"}, {"response_type": "x"}, {"prompt": "none"}, {"resource": "x"}]
    )
    async def test_an_error_does_not_lead_to_a_client_that_nobody_vouches_for(
        self, lab: AuthLab, changes: dict[str, str]
    ) -> None:
        response = await lab.authorize("stranger", **changes)
        assert response.status_code == 400
        assert "location" not in response.headers
        assert "refresh" not in response.headers
        # The person sees where it would go, and may go there.
        assert "phish.example" in response.text
        link = re.search(r'<a class="[^"]*" href="([^"]*)"', response.text)
        assert link is not None
        query = parse_qs(urlsplit(link[1].replace("&amp;", "&")).query)
        assert (query["state"], query["iss"]) == (["xyz"], [ISSUER])

    async def test_nor_does_it_get_a_code_before_the_person_agreed(self, lab: AuthLab) -> None:
        before = granted(lab)
        page = await lab.consent(await lab.authorize("stranger"))
        assert "No administrator has checked this application" in page.text
        assert "phish.example" in page.text
        assert granted(lab) == before

    async def test_its_error_goes_back_by_itself_once_the_person_said_no(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("stranger"))
        assert answer(await lab.decide(page, "deny"))["error"] == "access_denied"


class TestParameterPollution:
    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("response_type", "token", "invalid_request"),
            ("scope", "admin", "invalid_request"),
            ("resource", f"{ISSUER}/mcp/git", "invalid_target"),
            ("code_challenge", CHALLENGE, "invalid_request"),
            ("code_challenge_method", "plain", "invalid_request"),
            ("prompt", "none", "invalid_request"),
            ("dpop_jkt", "k" * 43, "invalid_request"),
            ("authorization_details", "[]", "invalid_request"),
        ],
    )
    async def test_a_parameter_given_twice_is_refused(self, lab: AuthLab, name: str, value: str, error: str) -> None:
        query = urlencode([*lab.parameters(scope="reports", prompt="login").items(), (name, value), (name, value)])
        back = answer(await lab.ask(query))
        assert (back["error"], back["state"], back["iss"]) == (error, "xyz", ISSUER)

    async def test_a_state_given_twice_is_not_chosen_from(self, lab: AuthLab) -> None:
        back = answer(await lab.ask(urlencode(lab.parameters()) + "&state=other"))
        assert back["error"] == "invalid_request"
        assert "state" not in back

    async def test_a_name_spelled_in_escapes_is_the_same_name(self, lab: AuthLab) -> None:
        assert_nowhere(await lab.ask(urlencode(lab.parameters()) + "&redirect%5Furi=https%3A%2F%2Fevil.example"))

    async def test_a_state_cannot_add_parameters_or_headers(self, lab: AuthLab) -> None:
        state = "x&code=evil&iss=https://evil.example\r\nSet-Cookie: a=b#"
        response = await lab.authorize(state=state)
        back = answer(response)
        assert (back["state"], back["iss"]) == (state, ISSUER)
        assert back["code"] != "evil"
        assert "a=b" not in response.headers.get("set-cookie", "")

    @pytest.mark.parametrize("extra", [b"&a=%ff", b"&a=%zz", b"&" + b"a=" + b"x" * 9000])
    async def test_a_query_that_cannot_be_read_leads_nowhere(self, lab: AuthLab, extra: bytes) -> None:
        assert_nowhere(await lab.ask(urlencode(lab.parameters()) + extra.decode()))

    async def test_a_form_that_is_too_large_or_comes_with_a_query_leads_nowhere(self, lab: AuthLab) -> None:
        assert_nowhere(await lab.http.post("/authorize", data={**lab.parameters(), "a": "x" * 9000}))
        assert_nowhere(await lab.http.post("/authorize?client_id=web", data=lab.parameters()))
        assert_nowhere(await lab.http.post("/authorize", json=lab.parameters()))


class TestCodeInjection:
    async def test_a_code_without_pkce_does_not_exist(self, lab: AuthLab) -> None:
        before = granted(lab)
        for changes in (
            {"code_challenge": None, "code_challenge_method": None},
            {"code_challenge_method": None},
            {"code_challenge_method": "plain"},
            {"code_challenge": "short"},
        ):
            for client_id in ("web", "agent", "spa", "native"):
                assert answer(await lab.authorize(client_id, **changes))["error"] == "invalid_request"
        assert granted(lab) == before

    async def test_a_stolen_code_is_of_no_use_in_the_attackers_own_flow(self, lab: AuthLab) -> None:
        stolen = await lab.code()
        response = await lab.redeem(stolen, code_verifier="w" * 43)
        assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")

    async def test_a_code_cannot_be_redeemed_by_another_client_or_redirect_uri(self, lab: AuthLab) -> None:
        for client_id, changes in (("two", {}), ("web", {"redirect_uri": "https://app.example/other?tenant=a"})):
            response = await lab.redeem(await lab.code(), client_id, **changes)
            assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")

    async def test_a_code_is_bound_to_the_key_that_the_request_named(self, lab: AuthLab) -> None:
        mine, other = Prover(), Prover()
        nonce = await server_nonce(lab.lab)
        now = lab.lab.clock.now()
        code = await lab.code(dpop_jkt=mine.thumbprint)
        for headers in ({}, {"DPoP": other.proof(now, nonce)}):
            code = await lab.code(dpop_jkt=mine.thumbprint)
            form = {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": WEB_CALLBACK,
                "code_verifier": lab.verifier,
            }
            response = await lab.http.post("/token", data=form, headers={**basic("web", SECRET), **headers})
            assert response.status_code == 400, response.text


class TestMixUp:
    """RFC 9207: every answer says whose it is."""

    async def test_every_way_an_answer_can_go_names_the_issuer(self, lab: AuthLab) -> None:
        answers = [
            answer(await lab.authorize()),
            answer(await lab.authorize(prompt="none", scope="reports")),
            answer(await lab.authorize(scope="none")),
            answer(await lab.decide(await lab.consent(await lab.authorize("spa")), "allow")),
            answer(await lab.decide(await lab.consent(await lab.authorize("native")), "deny")),
        ]
        pushed = (await lab.push()).json()["request_uri"]
        answers.append(answer(await lab.ask(urlencode({"client_id": "web", "request_uri": pushed}))))
        assert [found["iss"] for found in answers] == [ISSUER] * len(answers)

    async def test_the_issuer_is_configured_and_never_from_host(self, lab: AuthLab) -> None:
        response = await lab.http.get(
            f"/authorize?{urlencode(lab.parameters())}",
            headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
        )
        assert answer(response)["iss"] == ISSUER
        await lab.log_out()
        response = await lab.http.get(f"/authorize?{urlencode(lab.parameters())}", headers={"Host": "evil.example"})
        assert response.headers["location"].startswith(f"{ISSUER}/login?")


class TestForgedDecisions:
    async def test_another_site_cannot_post_the_decision(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("native"))
        fields = {**hidden_fields(page.text), "decision": "allow"}
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            response = await lab.http.post(CONSENT_PATH, data=fields, headers=headers)
            assert (response.status_code, response.headers.get("location")) == (403, None)
        assert (await lab.decide(page, "allow")).status_code == 303

    @pytest.mark.parametrize("token", ["", "x" * 43, None])
    async def test_a_decision_without_the_pages_own_token_is_none(self, lab: AuthLab, token: str | None) -> None:
        page = await lab.consent(await lab.authorize("native"))
        fields = {**hidden_fields(page.text), "decision": "allow"}
        del fields["form_token"]
        if token is not None:
            fields["form_token"] = token
        response = await lab.http.post(CONSENT_PATH, data=fields, headers={"Origin": ISSUER})
        assert response.status_code == 403

    async def test_a_victim_cannot_be_made_to_answer_the_attackers_request(self, lab: AuthLab) -> None:
        async with lab.another_browser() as attacker:
            await attacker.log_in(lab.bob)
            page = await attacker.consent(await attacker.authorize("native"))
            handle = hidden_fields(page.text)["request"]
        # The victim opens the attacker's link, and is made to post the attacker's fields.
        own = hidden_fields((await lab.consent(await lab.authorize("native"))).text)
        opened = await lab.http.get(f"{CONSENT_PATH}?request={handle}")
        assert (opened.status_code, opened.headers.get("location")) == (400, None)
        fields = {**own, "request": handle, "decision": "allow"}
        response = await lab.http.post(CONSENT_PATH, data=fields, headers={"Origin": ISSUER})
        assert (response.status_code, response.headers.get("location")) == (400, None)
        assert lab.lab.audit.last.reason == ErrorCode.INTERACTION_EXPIRED

    async def test_the_attackers_token_is_of_no_use_in_the_victims_browser(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("native"))
        async with lab.another_browser() as attacker:
            await attacker.log_in(lab.bob)
            other = hidden_fields((await attacker.consent(await attacker.authorize("native"))).text)
        response = await lab.decide(page, "allow", form_token=other["form_token"])
        assert response.status_code == 403

    async def test_a_decision_is_allow_or_deny(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("native"))
        for decision in ("", "yes", "Allow"):
            assert (await lab.decide(page, decision)).status_code == 400
        assert (await lab.decide(page, "allow")).status_code == 303

    async def test_a_get_decides_nothing(self, lab: AuthLab) -> None:
        before = granted(lab)
        fields = {**hidden_fields((await lab.consent(await lab.authorize("native"))).text), "decision": "allow"}
        response = await lab.http.get(f"{CONSENT_PATH}?{urlencode(fields)}")
        assert response.status_code == 200
        assert granted(lab) == before

    async def test_a_form_of_another_site_does_not_make_the_browser_forget_itself(self, lab: AuthLab) -> None:
        async with lab.another_browser() as cookieless:
            for path, data in (("/authorize", lab.parameters()), (CONSENT_PATH, {"decision": "allow"})):
                response = await cookieless.http.post(path, data=data)
                assert "set-cookie" not in response.headers

    @pytest.mark.parametrize("request_id", ["", "x", "h" * 43, "h" * 44, "../login", "h" * 42 + "'"])
    async def test_guessing_leads_nowhere(self, lab: AuthLab, request_id: str) -> None:
        assert_nowhere(await lab.http.get(CONSENT_PATH, params={"request": request_id}))


class TestClickjacking:
    async def test_no_page_of_the_way_can_be_framed_or_loads_anything_foreign(self, lab: AuthLab) -> None:
        await lab.log_out()
        lost = await lab.authorize()
        await lab.log_in(lab.alice)
        pages = [
            await lab.consent(await lab.authorize("native")),
            await lab.consent(lost),
            await lab.authorize("nobody"),
            await lab.authorize("stranger", scope="none"),
            await lab.authorize(),
        ]
        assert [page.status_code for page in pages] == [200, 200, 400, 400, 303]
        for page in pages:
            policy = page.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "script-src" not in policy
            assert page.headers["cache-control"] == "no-store"
            # Nothing of an address with a handle or a code goes to another site.
            assert page.headers["referrer-policy"] in ("no-referrer", "same-origin")
            assert "<script" not in page.text
            assert "style=" not in page.text

    @pytest.mark.parametrize(
        ("client_id", "redirect_uri", "target"),
        [
            ("web", WEB_CALLBACK, "https://app.example"),
            ("native", "http://127.0.0.1:51004/callback", "http://127.0.0.1:51004"),
            ("app", "com.example.app:/callback", "com.example.app:"),
        ],
    )
    async def test_the_pages_form_may_lead_to_its_client_and_nowhere_else(
        self, lab: AuthLab, client_id: str, redirect_uri: str, target: str
    ) -> None:
        page = await lab.consent(await lab.authorize(client_id, redirect_uri=redirect_uri, prompt="consent"))
        policy = page.headers["content-security-policy"].split("; ")
        assert f"form-action 'self' {target}" in policy
        assert len(policy) == 6


class TestHostileNames:
    async def test_a_name_is_text_and_cannot_reorder_the_page(self, lab: AuthLab) -> None:
        name = "<b>Acme</b>\u202eevil\u0000\n" + "x" * 500
        async with lab.lab.engine.begin() as connection:
            await connection.execute(
                update(clients).where(clients.c.client_id == "native").values(name=name.replace("\x00", "\x01"))
            )
        page = await lab.consent(await lab.authorize("native"))
        assert "&lt;b&gt;Acme&lt;/b&gt;[U+202E]evil[U+0001][U+000A]xxx" in page.text
        assert "\u202e" not in page.text
        assert "x" * 100 not in page.text


class TestRequestUris:
    @pytest.mark.parametrize(
        "request_uri",
        [
            "http://127.0.0.1:1/evil",
            "https://evil.example/request",
            "file:///etc/passwd",
            REQUEST_URI_PREFIX,
            REQUEST_URI_PREFIX + "h" * 43,
            REQUEST_URI_PREFIX + "h" * 43 + "%0d%0aevil",
        ],
    )
    async def test_nothing_is_fetched_and_a_foreign_request_uri_leads_nowhere(
        self, lab: AuthLab, request_uri: str
    ) -> None:
        assert_nowhere(await lab.authorize(request_uri=request_uri))
        assert lab.lab.audit.last.reason == ErrorCode.REQUEST_URI_INVALID

    async def test_another_clients_or_a_used_one_leads_nowhere(self, lab: AuthLab) -> None:
        request_uri = (await lab.push()).json()["request_uri"]
        assert_nowhere(await lab.authorize("spa", request_uri=request_uri))
        assert "code" in answer(await lab.authorize(request_uri=request_uri))
        assert_nowhere(await lab.authorize(request_uri=request_uri))

    async def test_two_of_them_lead_nowhere(self, lab: AuthLab) -> None:
        one = (await lab.push()).json()["request_uri"]
        two = (await lab.push()).json()["request_uri"]
        assert_nowhere(await lab.ask(urlencode([("client_id", "web"), ("request_uri", one), ("request_uri", two)])))
        assert "code" in answer(await lab.authorize(request_uri=one))

    async def test_an_interactions_handle_is_no_request_uri_nor_the_other_way_round(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("native"))
        handle = hidden_fields(page.text)["request"]
        assert_nowhere(await lab.authorize("native", request_uri=REQUEST_URI_PREFIX + handle))
        request_uri = (await lab.push()).json()["request_uri"]
        response = await lab.http.get(CONSENT_PATH, params={"request": request_uri.removeprefix(REQUEST_URI_PREFIX)})
        assert_nowhere(response)

    async def test_a_proof_at_the_push_binds_the_code_and_another_key_is_refused(self, lab: AuthLab) -> None:
        prover = Prover()
        nonce = await server_nonce(lab.lab)
        proof = prover.proof(lab.lab.clock.now(), nonce, htu=f"{ISSUER}{PAR_PATH}")
        headers = {**basic("web", SECRET), "DPoP": proof}
        refused = await lab.push("web", headers, dpop_jkt=Prover().thumbprint)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")
        again = prover.proof(lab.lab.clock.now(), nonce, htu=f"{ISSUER}{PAR_PATH}")
        pushed = await lab.push("web", {**basic("web", SECRET), "DPoP": again})
        assert pushed.status_code == 201, pushed.text
        back = answer(await lab.authorize(request_uri=pushed.json()["request_uri"]))
        unbound = await lab.redeem(back["code"])
        assert unbound.status_code == 400


class TestWidening:
    async def test_a_consent_is_not_used_for_more_than_was_agreed(self, lab: AuthLab) -> None:
        before = granted(lab)
        for changes in (
            {"resource": f"{ISSUER}/mcp/git"},
            {"resource": f"{ISSUER}/operations"},
            {"authorization_details": '[{"type":"mcp_session","task":"report"}]'},
        ):
            page = await lab.consent(await lab.authorize(**changes))
            assert "decision" in page.text
        assert granted(lab) == before

    async def test_the_form_cannot_change_what_was_asked(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("native", scope="reports"))
        response = await lab.decide(
            page, "allow", scope="reports admin", resource=f"{ISSUER}/mcp/git", redirect_uri="https://evil.example/"
        )
        assert response.headers["location"].startswith(NATIVE_CALLBACK)
        token = await lab.redeem(answer(response)["code"], "native")
        assert token.json()["scope"] == "reports"

    async def test_a_person_of_another_tenant_grants_nothing_here(self, lab: AuthLab) -> None:
        await lab.log_in(lab.carol)
        before = granted(lab)
        response = await lab.authorize()
        assert urlsplit(response.headers["location"]).path == "/login"
        assert answer(await lab.authorize(prompt="none"))["error"] == "login_required"
        assert granted(lab) == before

    async def test_another_tenants_resource_is_none(self, lab: AuthLab) -> None:
        assert answer(await lab.authorize(resource=f"{ISSUER}/mcp/mail"))["error"] == "invalid_target"

    async def test_no_event_and_no_page_holds_a_code_a_handle_or_a_cookie(self, lab: AuthLab) -> None:
        page = await lab.consent(await lab.authorize("native"))
        code = answer(await lab.decide(page, "allow"))["code"]
        trail = str(lab.lab.audit.events)
        secrets = [code, hidden_fields(page.text)["request"], *lab.http.cookies.values(), lab.verifier]
        assert not [secret for secret in secrets if secret and secret in trail]
        assert FILES in trail
