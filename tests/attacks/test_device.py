"""Attacks on the device flow (RFC 8628 section 5): guessing, stealing and swapping codes, phishing, forgery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from devicelab import CLI, DeviceLab, HiddenFields, LoggedIn, add_user, open_device_lab
from devicelab import OTHER_CLI as OTHER
from tokenlab import FILES, ISSUER, public_jwks
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode
from twogate.core.oauth.device import make_user_code
from twogate.core.oauth.metadata import DEVICE_PATH, TOKEN_PATH

MALLORY = "mallory-subject"
DEVICE_COOKIE = "__Host-twogate-device"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[DeviceLab]:
    async with open_device_lab(tmp_path) as running:
        await add_user(running.lab, MALLORY)
        yield running


def assert_refused(answer: httpx2.Response, status: int) -> None:
    """A page that says no, and shows nothing of what was asked for."""
    assert answer.status_code == status, answer.text
    assert "Twogate command line" not in answer.text


class TestGuessing:
    async def test_an_address_that_guesses_is_stopped_after_five_tries_even_when_the_sixth_is_right(
        self, lab: DeviceLab
    ) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn(subject=MALLORY)) as browser:
            page = await browser.http.get("/device")
            guesses = [await browser.submit(page, "/device", user_code="BBBB-BBBB") for _ in range(5)]
            assert {guess.status_code for guess in guesses} == {400}
            right = await browser.submit(page, "/device", user_code=begun["user_code"])
            assert_refused(right, 429)
            assert DEVICE_COOKIE not in browser.http.cookies
        reasons = [event.reason for event in lab.lab.audit.events if event.kind is EventKind.AUTHORIZATION_REFUSED]
        assert reasons == [ErrorCode.DEVICE_CODE_EXPIRED] * 5 + [ErrorCode.RATE_LIMITED]

    async def test_guesses_made_all_at_once_are_counted_too(self, lab: DeviceLab) -> None:
        async with lab.browser() as browser:
            page = await browser.http.get("/device")
            codes = [make_user_code(SystemRng().token(16)) for _ in range(40)]
            answers = await asyncio.gather(*(browser.submit(page, "/device", user_code=code) for code in codes))
        assert sorted(answer.status_code for answer in answers) == [400] * 5 + [429] * 35

    async def test_new_browsers_and_forged_headers_do_not_make_a_new_address(self, lab: DeviceLab) -> None:
        statuses = []
        for number in range(7):
            async with lab.browser(address="2001:db8:0:1::" + str(number)) as browser:
                browser.http.headers["X-Forwarded-For"] = f"192.0.2.{number}"
                browser.http.headers["Forwarded"] = f"for=192.0.2.{number}"
                statuses.append((await browser.enter("BBBB-BBBB")).status_code)
        assert statuses == [400] * 5 + [429] * 2

    async def test_one_guesser_keeps_nobody_else_from_entering_a_code(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(address="203.0.113.66") as guesser:
            for _ in range(10):
                await guesser.enter("BBBB-BBBB")
        async with lab.browser(LoggedIn()) as browser:
            assert begun["user_code"] in (await browser.confirm_page(begun["user_code"])).text

    async def test_what_is_no_code_counts_as_a_guess_and_is_shown_harmlessly(self, lab: DeviceLab) -> None:
        async with lab.browser() as browser:
            answer = await browser.enter('"><script>alert(1)</script>')
            assert answer.status_code == 400
            assert "<script>" not in answer.text
            for _ in range(4):
                await browser.enter("x" * 1000)
            assert (await browser.enter("BBBB-BBBB")).status_code == 429

    async def test_a_link_cannot_be_used_to_guess(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            right = await browser.http.get(f"/device?user_code={begun['user_code']}")
            wrong = await browser.http.get("/device?user_code=BBBB-BBBB")
        assert right.text.replace(begun["user_code"], "CODE") == wrong.text.replace("BBBB-BBBB", "CODE")


class TestStolenCodes:
    async def test_a_device_code_is_its_clients_alone_and_trying_it_changes_nothing(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        assert await lab.polled(begun["device_code"], client_id=OTHER) == "invalid_grant"
        assert (await lab.poll(begun["device_code"])).status_code == 200

    async def test_another_client_cannot_slow_a_device_down(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        for _ in range(3):
            assert await lab.polled(begun["device_code"], client_id=OTHER) == "invalid_grant"
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_the_user_code_is_no_device_code_and_no_other_text_is(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        code = begun["device_code"]
        for guess in (begun["user_code"], code[:-1], code + "A", code.swapcase(), "A" * 43, "\x00" * 43, "x" * 5000):
            assert await lab.polled(guess) == "invalid_grant"
        assert await lab.polled("") == "invalid_request"
        assert (await lab.poll(code)).status_code == 200

    async def test_a_redeemed_code_is_worth_nothing_however_often_it_is_tried(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        assert (await lab.poll(begun["device_code"])).status_code == 200
        for _ in range(3):
            assert await lab.polled(begun["device_code"]) == "invalid_grant"
        assert sum(event.kind is EventKind.TOKEN_ISSUED for event in lab.lab.audit.events) == 1

    async def test_a_device_code_is_no_authorization_code_and_no_refresh_token(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        for form in (
            {"grant_type": "refresh_token", "refresh_token": begun["device_code"], "client_id": CLI},
            {"grant_type": "authorization_code", "code": begun["device_code"], "client_id": CLI},
        ):
            assert (await lab.lab.http.post("/token", data=form)).status_code == 400

    async def test_neither_code_is_on_the_trail(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.polled(begun["device_code"], client_id=OTHER)
        await lab.decide(begun["user_code"])
        await lab.poll(begun["device_code"])
        trail = repr(lab.lab.audit.events)
        assert len(lab.lab.audit.events) >= 3
        for secret in (begun["device_code"], begun["user_code"], begun["user_code"].replace("-", "")):
            assert secret not in trail

    async def test_codes_in_the_address_or_given_twice_are_refused(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        await lab.decide(begun["user_code"])
        grant = "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=" + CLI
        media = {"Content-Type": "application/x-www-form-urlencoded"}
        code = begun["device_code"]
        in_query = await lab.lab.http.post(f"/token?device_code={code}", content=grant, headers=media)
        twice = f"{grant}&device_code={code}&device_code={code}"
        repeated = await lab.lab.http.post("/token", content=twice, headers=media)
        assert [answer.json()["error"] for answer in (in_query, repeated)] == ["invalid_request"] * 2
        assert (await lab.poll(code)).status_code == 200


class TestKeys:
    """A code that was asked for with a key is redeemed with that key (RFC 9449)."""

    def proof(self, lab: DeviceLab, key: ec.EllipticCurvePrivateKey, path: str, nonce: str | None) -> dict[str, str]:
        claims: dict[str, Any] = {
            "htm": "POST",
            "htu": ISSUER + path,
            "iat": lab.lab.clock.now(),
            "jti": SystemRng().token(16).hex(),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        jwk = ECKey.import_key(key.public_key()).as_dict(private=False)
        public = {name: jwk[name] for name in ("kty", "crv", "x", "y")}
        return {"DPoP": jwt.encode(claims, key, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": public})}

    async def send(
        self, lab: DeviceLab, key: ec.EllipticCurvePrivateKey, path: str, form: dict[str, str]
    ) -> httpx2.Response:
        """POST with a proof, with the nonce that the first answer asks for."""
        first = await lab.lab.http.post(path, data=form, headers=self.proof(lab, key, path, None))
        if first.status_code == 400 and first.json()["error"] == "use_dpop_nonce":
            nonce = first.headers["dpop-nonce"]
            return await lab.lab.http.post(path, data=form, headers=self.proof(lab, key, path, nonce))
        return first

    async def test_a_stolen_code_is_worth_nothing_without_the_key(self, lab: DeviceLab) -> None:
        key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        begun = (await self.send(lab, key, DEVICE_PATH, {"client_id": CLI, "resource": FILES})).json()
        await lab.decide(begun["user_code"])
        assert await lab.polled(begun["device_code"]) == "invalid_grant"
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "device_code": begun["device_code"],
            "client_id": CLI,
        }
        assert (await self.send(lab, other, TOKEN_PATH, form)).json()["error"] == "invalid_grant"
        given = await self.send(lab, key, TOKEN_PATH, form)
        assert given.status_code == 200, given.text
        claims = jwt.decode(given.json()["access_token"], options={"verify_signature": False})
        thumbprint = ECKey.import_key(key.public_key()).thumbprint()
        assert (given.json()["token_type"], claims["cnf"]) == ("DPoP", {"jkt": thumbprint})
        assert thumbprint in public_jwks(key)


class TestForgedDecisions:
    async def test_a_decision_without_our_page_is_refused(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            page = await browser.confirm_page(begun["user_code"])
            fields = HiddenFields(page.text).fields
            for missing in ("form_token", "decision"):
                kept = {name: value for name, value in fields.items() if name != missing}
                assert_refused(await browser.http.post("/device/decision", data={**kept, "choice": "allow"}), 403)
            for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
                forged = await browser.http.post(
                    "/device/decision", data={**fields, "choice": "allow"}, headers=headers
                )
                assert_refused(forged, 403)
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_entering_a_code_needs_our_page_too(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            await browser.http.get("/device")
            assert_refused(await browser.http.post("/device", data={"user_code": begun["user_code"]}), 403)
            assert DEVICE_COOKIE not in browser.http.cookies

    async def test_a_cookie_of_our_own_making_skips_no_limit(self, lab: DeviceLab) -> None:
        """Else every code could be tried without entering it."""
        begun = await lab.begun()
        code = begun["user_code"].replace("-", "")
        async with lab.browser(LoggedIn(subject=MALLORY)) as other:
            await other.enter(begun["user_code"])
            foreign = other.http.cookies[DEVICE_COOKIE]
        assert foreign.startswith(code)
        async with lab.browser(LoggedIn()) as browser:
            await browser.http.get("/device")
            for value in (code, f"{code}.", f"{code}.{'A' * 43}", foreign, f"{code}.{'A' * 5000}"):
                browser.http.cookies.set(DEVICE_COOKIE, value, domain="mcp.example.com", path="/")
                page = await browser.http.get("/device")
                assert (page.status_code, 'name="user_code"' in page.text) == (200, True)
                assert "Twogate command line" not in page.text

    async def test_a_page_in_another_tab_decides_on_the_code_that_it_shows(self, lab: DeviceLab) -> None:
        one, two = await lab.begun(), await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            first = await browser.confirm_page(one["user_code"])
            await browser.confirm_page(two["user_code"])
            await browser.decide(first, "allow")
        assert (await lab.poll(one["device_code"])).status_code == 200
        assert await lab.polled(two["device_code"]) == "authorization_pending"

    async def test_a_decision_cannot_be_moved_to_another_code(self, lab: DeviceLab) -> None:
        one, two = await lab.begun(), await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            page = await browser.confirm_page(one["user_code"])
            mac = HiddenFields(page.text).fields["decision"].partition(".")[2]
            for code in (two["user_code"].replace("-", ""), two["user_code"]):
                assert_refused(await browser.decide(page, "allow", decision=f"{code}.{mac}"), 403)
            # Nor is what the entry was signed with good for a decision.
            await browser.enter(two["user_code"])
            entry = browser.http.cookies[DEVICE_COOKIE]
            assert_refused(await browser.decide(page, "allow", decision=entry), 403)
        assert await lab.polled(two["device_code"]) == "authorization_pending"

    async def test_a_page_that_one_person_saw_is_not_decided_on_by_another(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            page = await browser.confirm_page(begun["user_code"])
            browser.log_in(LoggedIn(subject=MALLORY))
            assert_refused(await browser.decide(page, "allow"), 403)
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_a_decision_after_the_login_ended_is_refused(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            page = await browser.confirm_page(begun["user_code"])
            lab.logins.live.clear()
            assert_refused(await browser.decide(page, "allow"), 400)
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_a_decision_is_allow_or_deny(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            page = await browser.confirm_page(begun["user_code"])
            for choice in ("", "ALLOW", "yes", "allow "):
                assert_refused(await browser.decide(page, choice), 400)
        assert await lab.polled(begun["device_code"]) == "authorization_pending"

    async def test_of_two_decisions_made_at_once_one_holds(self, lab: DeviceLab) -> None:
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            page = await browser.confirm_page(begun["user_code"])
            answers = await asyncio.gather(*(browser.decide(page, choice) for choice in ("allow", "deny") * 5))
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 9
        decided = [
            event.kind
            for event in lab.lab.audit.events
            if event.kind in (EventKind.AUTHORIZATION_GRANTED, EventKind.AUTHORIZATION_REFUSED)
        ]
        assert len(decided) == 1


class TestPhishing:
    async def test_the_page_warns_and_shows_the_code_and_where_it_was_asked_for(self, lab: DeviceLab) -> None:
        """A code that a stranger sent looks like one's own, but for what the page says (section 5.4)."""
        begun = await lab.begun()
        async with lab.browser(LoggedIn()) as browser:
            first = await browser.http.get(begun["verification_uri_complete"])
            assert "Never enter a code that somebody sent you" in first.text
            page = await browser.confirm_page(begun["user_code"])
        for told in (begun["user_code"], "203.0.113.7", "If somebody sent you the code or the link"):
            assert told in page.text

    async def test_consent_to_one_device_is_not_remembered_for_the_next(self, lab: DeviceLab) -> None:
        async with lab.browser(LoggedIn()) as browser:
            one = await lab.begun()
            await browser.decide(await browser.confirm_page(one["user_code"]), "allow")
            two = await lab.begun()
            page = await browser.confirm_page(two["user_code"])
            assert "Twogate command line" in page.text
        assert await lab.polled(two["device_code"]) == "authorization_pending"

    async def test_the_page_cannot_be_framed(self, lab: DeviceLab) -> None:
        page = await lab.lab.http.get("/device")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]

    async def test_a_client_may_not_ask_for_more_than_its_tenant_has(self, lab: DeviceLab) -> None:
        for resource in (f"{ISSUER}/mcp/mail", f"{ISSUER}/operations", f"{FILES}/", "https://evil.example/mcp/files"):
            assert (await lab.begin(resource=resource)).json()["error"] == "invalid_target"

    async def test_a_poll_cannot_widen_what_was_allowed(self, lab: DeviceLab) -> None:
        begun = await lab.begun(scope="reports")
        await lab.decide(begun["user_code"])
        wider = {"resource": f"{ISSUER}/mcp/git"}
        assert await lab.polled(begun["device_code"], **wider) == "invalid_target"
        task = '[{"type":"mcp_session","task":"review"}]'
        assert await lab.polled(begun["device_code"], authorization_details=task) == "invalid_authorization_details"
        body = (await lab.poll(begun["device_code"], scope="admin", resource=FILES)).json()
        claims = jwt.decode(body["access_token"], options={"verify_signature": False})
        assert (claims["aud"], claims["scope"]) == (FILES, "reports")
