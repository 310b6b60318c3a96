"""The pages on which a person lets a device in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from devicelab import DeviceLab, LoggedIn, cli_client, open_device_lab
from tokenlab import FILES, ISSUER
from twogate.core.oauth.grant_type import GrantType


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[DeviceLab]:
    async with open_device_lab(tmp_path) as running:
        yield running


async def test_the_whole_way_of_somebody_who_is_logged_in(lab: DeviceLab) -> None:
    begun = await lab.begun(scope="reports")
    async with lab.browser(LoggedIn()) as browser:
        page = await browser.confirm_page(begun["user_code"].lower().replace("-", " "))
        for told in (begun["user_code"], "Twogate command line", "Alice", FILES, "reports", "read_file", "203.0.113.7"):
            assert told in page.text
        assert "Only continue if you started this yourself" in page.text
        done = await browser.decide(page, "allow")
        assert done.status_code == 200
        assert "has access now" in done.text
    assert (await lab.poll(begun["device_code"])).status_code == 200


async def test_saying_no(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn()) as browser:
        done = await browser.decide(await browser.confirm_page(begun["user_code"]), "deny")
        assert (done.status_code, "got nothing" in done.text) == (200, True)
    assert await lab.polled(begun["device_code"]) == "access_denied"


async def test_the_code_survives_the_login_of_its_clients_tenant(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn(tenant="globex", subject="carol")) as browser:
        entered = await browser.enter(begun["user_code"])
        assert (entered.status_code, entered.headers["location"]) == (303, "/login?tenant=acme&to=%2Fdevice")
        # Still nobody of acme: sent to the login again, never shown what was asked for.
        again = await browser.http.get("/device")
        assert (again.status_code, again.headers["location"]) == (303, "/login?tenant=acme&to=%2Fdevice")
        browser.log_in(LoggedIn())
        page = await browser.http.get("/device")
        assert begun["user_code"] in page.text
        assert (await browser.decide(page, "allow")).status_code == 200


async def test_a_link_with_a_code_fills_in_the_field_and_no_more(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn()) as browser:
        page = await browser.http.get(begun["verification_uri_complete"])
        assert page.status_code == 200
        assert f'value="{begun["user_code"]}"' in page.text
        assert "Twogate command line" not in page.text
        empty = await browser.http.get('/device?user_code="><b>')
        assert 'name="user_code" value=""' in empty.text
    assert await lab.polled(begun["device_code"]) == "authorization_pending"


async def test_a_wrong_code_is_said_to_be_wrong_and_may_be_corrected(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn()) as browser:
        wrong = await browser.enter("BBBB-BBBB")
        assert (wrong.status_code, "unknown, used or expired" in wrong.text) == (400, True)
        assert 'value="BBBB-BBBB"' in wrong.text
        right = await browser.submit(wrong, "/device", user_code=begun["user_code"])
        assert (right.status_code, right.headers["location"]) == (303, "/device")


async def test_what_lasts_without_asking_again_is_said_only_of_clients_that_can_refresh(lab: DeviceLab) -> None:
    client = cli_client("once", grants=frozenset({GrantType.DEVICE_CODE}))
    await lab.lab.clients.add(client, None, (), lab.lab.clock.now())
    one, two = await lab.begun(), await lab.begun(client_id="once")
    async with lab.browser(LoggedIn()) as browser:
        assert "renew this" in (await browser.confirm_page(one["user_code"])).text
        assert "renew this" not in (await browser.confirm_page(two["user_code"])).text
    ends = LoggedIn(ends_at=lab.lab.clock.now() + 3600)
    async with lab.browser(ends) as browser:
        assert "up to 1 hour" in (await browser.confirm_page(one["user_code"])).text


async def test_a_code_that_does_not_wait_any_more_leads_back_to_the_field(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn()) as browser:
        await browser.confirm_page(begun["user_code"])
        await lab.decide(begun["user_code"], allow=False)
        page = await browser.http.get("/device")
        assert (page.status_code, 'name="user_code"' in page.text) == (200, True)


async def test_after_the_decision_the_page_asks_for_a_new_code(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn()) as browser:
        await browser.decide(await browser.confirm_page(begun["user_code"]), "allow")
        assert 'name="user_code"' in (await browser.http.get("/device")).text


async def test_somebody_who_is_gone_sees_nothing(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn(subject="nobody")) as browser:
        await browser.enter(begun["user_code"])
        page = await browser.http.get("/device")
        assert (page.status_code, "Twogate command line" in page.text) == (400, False)


async def test_pages_are_strict_and_never_kept(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser(LoggedIn()) as browser:
        first = await browser.http.get("/device")
        page = await browser.confirm_page(begun["user_code"])
        done = await browser.decide(page, "allow")
    for answer in (first, page, done):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert "<script" not in answer.text
        assert "style=" not in answer.text


async def test_other_methods_are_refused(lab: DeviceLab) -> None:
    for method, path in (("PUT", "/device"), ("GET", "/device/decision"), ("DELETE", "/device/decision")):
        answer = await lab.lab.http.request(method, path)
        assert (answer.status_code, "allow" in answer.headers) == (405, True)


async def test_entering_a_code_keeps_it_in_a_cookie_for_this_host_and_no_script(lab: DeviceLab) -> None:
    begun = await lab.begun()
    async with lab.browser() as browser:
        entered = await browser.enter(begun["user_code"])
    (cookie,) = [value for value in entered.headers.get_list("set-cookie") if "device" in value]
    assert cookie.startswith("__Host-twogate-device=")
    for attribute in ("HttpOnly", "Secure", "Path=/", "SameSite=lax"):
        assert attribute in cookie
    assert ISSUER.startswith("https://")
