"""R-73: the console shows and does only what a person's duties in their own tenant allow."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import AsyncExitStack
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from consolelab import AGENTS, ConsoleLab, open_console_lab
from peoplelab import Browser, field_of
from pinlab import a_pin
from tokenlab import ISSUER
from twogate.core.approval import Duty
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId, UserId
from twogate.core.session import Session
from twogate.flows.console.changes import MAX_OF_TENANT, Changes
from twogate.flows.hypothetical import hypothetical_principal
from twogate.stores.sql.pins import SqlPinStore

# In the process's own time: no page waits for another one's test.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOK = ("/console", *(f"/console/{word}" for word in ("sessions", "agents", "tools", "matrix", "explain", "audit")))
FORMS = {
    "/console/sessions/end": {"session": "sid-acme"},
    "/console/agents/pause": {"agent": "reporter"},
    "/console/agents/enable": {"agent": "reporter"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ConsoleLab]:
    directory: Path = tmp_path_factory.mktemp("console")
    async with open_console_lab(directory) as made:
        await made.session("acme")
        await made.session("globex")
        await made.park("acme")
        await made.park("globex")
        await made.refuse("acme")
        await made.refuse("globex", detail="secret plans of globex")
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def viewer(lab: ConsoleLab) -> Browser:
    return await lab.visitor("viewer", Duty.VIEWER)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(lab: ConsoleLab) -> Browser:
    return await lab.visitor("operator", Duty.OPERATOR)


async def live(lab: ConsoleLab, tenant: str = "acme") -> bool:
    session = await lab.state.sessions.get(f"sid-{tenant}")
    assert session is not None
    return session.ended_at is None


async def paused(lab: ConsoleLab, tenant: str, name: str) -> bool:
    agent = await lab.state.registry.agent(AgentId(tenant, name))
    assert agent is not None
    return agent.disabled


async def test_nobody_sees_a_page_without_a_login(lab: ConsoleLab) -> None:
    stranger = lab.browser()
    for path in (*LOOK, "/console/approvals", "/console/events"):
        answer = await stranger.http.get(path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login"), path


@pytest.mark.parametrize(
    ("duty", "opened"),
    [
        (None, set[str]()),
        (Duty.APPROVER, {"/console"}),
        (Duty.VIEWER, set(LOOK)),
        (Duty.OPERATOR, set(LOOK)),
        (Duty.ADMINISTRATOR, set(LOOK)),
    ],
)
async def test_a_duty_opens_its_pages_and_its_navigation_leads_to_no_other(
    lab: ConsoleLab, duty: Duty | None, opened: set[str]
) -> None:
    browser = await lab.visitor(f"duty-{duty}", *([duty] if duty else []))
    for path in LOOK:
        answer = await browser.get(path)
        assert answer.status_code == (200 if path in opened else 403), path
        if path in opened:
            links = set(re.findall(r'<a href="(/console[a-z/]*)"(?: aria-current="page")?>', answer.text))
            assert links & {*LOOK, "/console/approvals"} == {*opened, "/console/approvals"}
            assert re.findall(r'<a href="([^"]*)" aria-current="page"', answer.text) == [path]


async def test_a_person_of_one_tenant_sees_nothing_of_another_on_any_page(lab: ConsoleLab, viewer: Browser) -> None:
    for path in (*LOOK, "/console/approvals", "/console/audit?kind=call.refused", "/console/tools?server=files"):
        answer = await viewer.get(path)
        assert answer.status_code == 200
        for foreign in ("globex", "digger", "vault", "sid-globex", "secret plans"):
            assert foreign not in answer.text, (path, foreign)


async def test_what_is_asked_for_of_another_tenant_is_not_there(lab: ConsoleLab, viewer: Browser) -> None:
    differs = ("/console/tools/difference?server=vault&tool=dig", "/console/tools/difference?server=files&tool=dig")
    for path in (
        "/console/tools?server=vault",
        "/console/matrix?agent=digger",
        "/console/matrix?agent=globex/digger",
        *differs,
    ):
        assert (await viewer.get(path)).status_code == 404, path
    asked = await viewer.get("/console/explain?agent=digger&tool=vault.dig")
    assert (asked.status_code, "There is no agent" in asked.text, "classified fetch" in asked.text) == (
        404,
        True,
        False,
    )
    # A tool that only another tenant has is, here, a tool that nobody classified.
    dug = await viewer.get("/console/explain?agent=reporter&tool=vault.dig")
    assert "refused" in dug.text
    assert "fetch" not in dug.text
    for query in ("agent=digger", "session=sid-globex", "tenant=globex", "tenant=globex&anomalies=1&before=0"):
        page = await viewer.get(f"/console/audit?{query}")
        assert page.status_code == 200
        assert "secret plans" not in page.text


async def test_a_request_is_explained_to_its_own_tenant_only(lab: ConsoleLab, viewer: Browser) -> None:
    await lab.refuse("globex", request="ff-1", detail="secret plans")
    await lab.refuse(request="ff-2", detail="not theirs")
    asked = await viewer.get("/console/explain?request=ff-1")
    assert (asked.status_code, "secret plans" in asked.text, "digger" in asked.text) == (404, False, False)
    own = await viewer.get("/console/explain?request=ff-2")
    assert (own.status_code, "not theirs" in own.text) == (200, True)
    assert "refused at task: " in unescape(own.text)
    # From the trail's row to the reason, and from there to what would become of the same call now.
    assert '<a href="/console/explain?request=ff-2"' in (await viewer.get("/console/audit")).text
    (now,) = re.findall(r'<a href="(/console/explain\?agent=[^"]*)"', own.text)
    assert "files.write is classified write" in (await viewer.get(unescape(now))).text


async def test_a_pin_is_looked_up_in_the_visitors_tenant_and_its_server_is_asked(
    lab: ConsoleLab, viewer: Browser
) -> None:
    pins = SqlPinStore(lab.state.engine)
    page = "/console/explain?agent=reporter&tool=files.read"
    await pins.approve([a_pin("files.read", {}, "globex")])
    assert "nobody approved it" in (await viewer.get(page)).text
    await pins.approve([a_pin("files.read", {})])
    # Nobody answers at its address: the gateway would refuse the call, and so it says.
    told = unescape((await viewer.get(page)).text)
    assert "what the server shows cannot be had" in told
    assert '<strong class="effect-deny">deny</strong>' in told


async def test_an_operator_ends_nothing_and_pauses_nobody_of_another_tenant(lab: ConsoleLab, operator: Browser) -> None:
    before = len(lab.events(EventKind.SESSION_ENDED)), len(lab.events(EventKind.AGENT_DISABLED))
    await operator.get("/console/sessions")
    assert (await operator.post("/console/sessions/end", session="sid-globex")).status_code == 404
    for name in ("digger", "globex/digger", "../globex/digger", ""):
        await operator.get("/console/agents")
        for what in ("pause", "enable"):
            answer = await operator.post(f"/console/agents/{what}", agent=name, tenant="globex")
            assert answer.status_code == 404, (what, name)
            await operator.get("/console/agents")
    assert await live(lab, "globex")
    assert not await paused(lab, "globex", "digger")
    assert before == (len(lab.events(EventKind.SESSION_ENDED)), len(lab.events(EventKind.AGENT_DISABLED)))


@pytest.mark.parametrize("path", FORMS)
async def test_another_sites_form_does_nothing(lab: ConsoleLab, operator: Browser, path: str) -> None:
    await operator.get("/console/agents")
    token = field_of(await operator.get("/account"), "form_token")
    fields = FORMS[path]
    for data, headers in (
        ({**fields, "form_token": token}, {"Origin": "https://evil.example"}),
        ({**fields, "form_token": token}, {"Origin": ISSUER, "Sec-Fetch-Site": "cross-site"}),
        (fields, {"Origin": ISSUER}),
        ({**fields, "form_token": token[::-1]}, {"Origin": ISSUER}),
    ):
        answer = await operator.http.post(path, data=data, headers=headers)
        assert (answer.status_code, "form_refused" in answer.text) == (403, True)
    assert (await operator.http.get(path)).status_code == 405
    assert await live(lab)
    assert not await paused(lab, "acme", "reporter")


@pytest.mark.parametrize("duty", [Duty.VIEWER, Duty.APPROVER])
@pytest.mark.parametrize("path", FORMS)
async def test_who_may_only_look_or_approve_operates_nothing(lab: ConsoleLab, path: str, duty: Duty) -> None:
    browser = await lab.visitor(f"looker-{path.rpartition('/')[2]}-{duty}", duty)
    for page in ("/console/sessions", "/console/agents"):
        assert 'method="post"' not in (await browser.get(page)).text
    await browser.get("/account")
    assert (await browser.post(path, **FORMS[path])).status_code == 403
    assert await live(lab)
    assert not await paused(lab, "acme", "reporter")


async def test_a_duty_taken_away_or_a_person_disabled_is_out_at_the_next_click(lab: ConsoleLab) -> None:
    user = await lab.person("leaver", Duty.OPERATOR)
    browser = await lab.log_in(user)
    await browser.get("/console/agents")
    await lab.admin.change(user, duties=())
    assert (await browser.post("/console/agents/pause", agent="reporter")).status_code == 403
    for path in LOOK:
        assert (await browser.get(path)).status_code == 403
    await lab.admin.change(user, duties=(Duty.OPERATOR,))
    await browser.get("/console/agents")
    await lab.admin.disable(user)
    answer = await browser.post("/console/agents/pause", agent="reporter")
    assert answer.status_code in (303, 401)
    assert not await paused(lab, "acme", "reporter")


async def test_a_duty_comes_from_a_group_too(lab: ConsoleLab) -> None:
    browser = await lab.log_in(await lab.person("grouped", groups=("watchers",)))
    assert (await browser.get("/console/audit")).status_code == 200
    assert 'method="post"' not in (await browser.get("/console/agents")).text


async def test_an_operator_pauses_and_enables_and_the_trail_says_who(lab: ConsoleLab, operator: Browser) -> None:
    for what, kind in (("pause", EventKind.AGENT_DISABLED), ("enable", EventKind.AGENT_ENABLED)):
        await operator.get("/console/agents")
        answer = await operator.post(f"/console/agents/{what}", agent="reporter")
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/agents")
        assert await paused(lab, "acme", "reporter") is (what == "pause")
        event = lab.events(kind)[-1]
        assert (event["tenant"], event["agent"], event["client"]) == ("acme", "reporter", "acme/operator")


async def test_an_operator_ends_a_session_once_and_the_trail_says_who(lab: ConsoleLab, operator: Browser) -> None:
    page = await operator.get("/console/sessions")
    assert 'value="sid-acme"' in page.text
    assert (await operator.post("/console/sessions/end", session="x" * 500)).status_code == 404
    await operator.get("/console/sessions")
    for _ in range(2):
        assert (await operator.post("/console/sessions/end", session="sid-acme")).status_code == 303
    assert not await live(lab)
    (event,) = lab.events(EventKind.SESSION_ENDED)
    assert (event["session"], event["client"]) == ("sid-acme", "acme/operator")
    assert "sid-acme" not in (await operator.get("/console/sessions")).text


HOSTILE = "<script>alert(1)</script>\u202e\u200b'\"><img src=x>"


async def test_names_of_strangers_bring_no_markup_and_hide_nothing(lab: ConsoleLab, viewer: Browser) -> None:
    await lab.refuse(agent=HOSTILE, target=HOSTILE, detail=HOSTILE, reason=HOSTILE, client=HOSTILE, task=HOSTILE)
    await lab.refuse(agent=HOSTILE, target=HOSTILE, detail=HOSTILE, method=HOSTILE, request=HOSTILE, role=HOSTILE)
    pages = [await viewer.get("/console/audit")]
    for name in ("agent", "tool", "task", "scopes", "groups", "roles"):
        given = {"agent": "reporter", "tool": "files.read", name: HOSTILE}
        pages.append(await viewer.http.get("/console/explain", params=given))
    pages.append(await viewer.http.get("/console/explain", params={"request": HOSTILE}))
    names = ("agent", "session", "reason", "kind", "before")
    pages += [await viewer.http.get("/console/audit", params={name: HOSTILE}) for name in names]
    for answer in pages:
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'")
    # What a stranger wrote is shown with its hidden characters; what the visitor typed stands in their own form alone.
    assert "\u202e" not in pages[0].text
    assert "[U+202E]" in unescape(pages[0].text)


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=99999", "page=" + "9" * 400, "page=%F0%9D%9F%99", "page=x"]
)
async def test_a_page_number_that_is_none_is_an_empty_or_the_first_page(viewer: Browser, query: str) -> None:
    for path in ("/console/agents", "/console/matrix", "/console/tools"):
        assert (await viewer.get(f"{path}?{query}")).status_code == 200
    assert (await viewer.get(f"/console/audit?before={query[5:]}")).status_code == 200


async def test_no_page_holds_a_secret(lab: ConsoleLab, viewer: Browser) -> None:
    for path in (*LOOK, "/console/approvals"):
        text = (await viewer.get(path)).text
        assert viewer.login is not None
        assert viewer.login not in text
        assert "digest" not in text.lower() or path == "/console/approvals"


async def test_a_session_is_found_and_ended_however_many_were_opened_after_it(
    lab: ConsoleLab, operator: Browser
) -> None:
    now = lab.state.clock.now()
    principal = hypothetical_principal(AGENTS["acme"], {}, scopes=()).key
    for number in range(60):
        user = UserId("https://idp.example", f"u{number}")
        made = msgspec.structs.replace(principal, user=user)
        session = Session(f"many-{number:02}", made, "report", frozenset(), now + number, now + 3600)
        await lab.state.sessions.open(session, AGENTS["acme"], now)
    first = await operator.get("/console/sessions")
    assert 'value="many-59"' in first.text
    assert 'value="many-00"' not in first.text
    (on,) = re.findall(r'<a href="([^"]*)" rel="next">', first.text)
    second = await operator.get(on)
    assert 'value="many-00"' in second.text
    assert (await operator.post("/console/sessions/end", session="many-00")).status_code == 303
    ended = await lab.state.sessions.get("many-00")
    assert ended is not None
    assert ended.ended_at is not None
    assert (await operator.get("/console/sessions?page=99999")).status_code == 200


async def test_who_cannot_read_the_trail_can_end_sessions_all_the_same(
    lab: ConsoleLab, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise GateError(ErrorCode.RATE_LIMITED, "too many pages read the audit trail", data={"wait": 1})

    monkeypatch.setattr("twogate.adapters.audit_reading.AuditReader.recent", away)
    for path in ("/console", "/console/sessions"):
        page = await operator.get(path)
        assert page.status_code == 200, path
        assert "cannot be read now" in page.text


async def test_when_the_trail_cannot_be_written_nothing_is_operated(
    lab: ConsoleLab, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operator.get("/console/agents")
    log = lab.state.audit
    monkeypatch.setattr(log, "_closing", True)
    assert (await operator.post("/console/agents/pause", agent="reporter")).status_code == 503
    monkeypatch.undo()
    assert not await paused(lab, "acme", "reporter")


async def test_a_stream_says_that_something_changed_and_nothing_of_what(lab: ConsoleLab) -> None:
    browser = await lab.visitor("listener", Duty.APPROVER)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
    stream = Stream(lab, cookie)
    try:
        assert (await stream.next())["status"] == 200
        assert (await stream.next())["body"] == b"retry: 3000\n\n"
        # The first look, and only then is there something to compare with.
        assert (await stream.next())["body"] == b"event: changed\ndata: 1\n\n"
        assert await lab.state.registry_store.disable_agent(AgentId("globex", "digger"), 0)
        assert await lab.state.registry_store.enable_agent(AgentId("globex", "digger"))
        while (body := (await stream.next())["body"]) == b":\n\n":
            pass
        assert body == b"event: changed\ndata: 1\n\n"
    finally:
        await stream.end()


async def test_another_site_beside_ours_opens_no_stream_and_steers_no_window(lab: ConsoleLab) -> None:
    browser = await lab.visitor("framed", Duty.VIEWER)
    for site in ("same-site", "cross-site", "none"):
        answer = await browser.http.get("/console/events", headers={"Sec-Fetch-Site": site})
        assert (answer.status_code, "form_refused" in answer.text) == (403, True), site
    for path in (*LOOK, "/console/approvals"):
        headers = (await browser.get(path)).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "form-action 'self';" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "same-origin"


async def test_after_a_logout_neither_the_page_nor_its_stream_nor_the_browsers_memory_shows_anything(
    lab: ConsoleLab,
) -> None:
    browser = await lab.visitor("leaving", Duty.VIEWER)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
    stream = Stream(lab, cookie)
    try:
        assert (await stream.next())["status"] == 200
        await browser.get("/account")
        answer = await browser.post("/logout")
        assert (answer.status_code, answer.headers["clear-site-data"]) == (303, '"cache"')
        assert (await browser.http.get("/console")).status_code == 303
        # The cookie itself, kept by a thief, opens nothing either.
        assert (await lab.browser().http.get("/console", headers={"Cookie": cookie})).status_code == 303
        await lab.state.registry_store.disable_agent(AgentId("globex", "digger"), 0)
        # With the next change, or the next silence, it is looked who listens.
        await asyncio.wait_for(stream.task, 20)
    finally:
        await stream.end()
        await lab.state.registry_store.enable_agent(AgentId("globex", "digger"))


async def test_a_page_that_asks_for_newer_events_learns_of_its_own_tenants_and_of_no_others(
    lab: ConsoleLab, viewer: Browser
) -> None:
    now = lab.state.clock.now_us()
    await lab.refuse("globex", detail="after the look")
    quiet = await viewer.get(f"/console/audit?kind=call.refused&after={now}")
    assert (quiet.status_code, quiet.content) == (204, b"")
    # What it is told is a time of the server's, and nothing of what others did until then.
    assert abs(int(quiet.headers["twogate-seen"]) - now) < 60_000_000
    await lab.refuse("acme")
    told = await viewer.get(f"/console/audit?kind=call.refused&after={now}")
    assert told.status_code == 200
    assert "after the look" not in told.text


async def test_a_form_leads_back_to_its_own_page_and_nowhere_else(lab: ConsoleLab, operator: Browser) -> None:
    for page, leads_to in (
        ("3", "/console/agents?page=3"),
        ("1", "/console/agents"),
        ("//evil.example", "/console/agents"),
    ):
        await operator.get("/console/agents")
        answer = await operator.post("/console/agents/enable", agent="reporter", page=page)
        assert (answer.status_code, answer.headers["location"]) == (303, leads_to)


async def test_people_of_one_tenant_cannot_take_every_stream(lab: ConsoleLab) -> None:
    async def mark(tenant: str, _: int) -> str:
        return tenant

    changes = Changes(lab.state.revision, mark, lab.state.clock, ())
    async with AsyncExitStack() as held:
        for number in range(MAX_OF_TENANT):
            await held.enter_async_context(changes.watch("globex", f"p{number}"))
        with pytest.raises(GateError) as refused:
            await held.enter_async_context(changes.watch("globex", "one-more"))
        assert refused.value.code is ErrorCode.RATE_LIMITED
        await held.enter_async_context(changes.watch("acme", "alice"))


async def test_streams_are_few_and_end_with_the_generation_and_the_duty(lab: ConsoleLab) -> None:
    user = await lab.person("watcher", Duty.VIEWER)
    browser = await lab.log_in(user)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
    streams = [Stream(lab, cookie) for _ in range(5)]
    statuses = sorted([(await stream.next())["status"] for stream in streams])
    assert statuses == [200, 200, 200, 200, 429]
    lab.app.current.superseded.set()
    for stream in streams:
        await asyncio.wait_for(stream.task, 10)
    lab.app.current.superseded.clear()
    assert not [stream for stream in streams if stream.task.exception()]


class Stream:
    """One GET of the events, message by message."""

    def __init__(self, lab: ConsoleLab, cookie: str) -> None:
        self._sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/console/events",
            "raw_path": b"/console/events",
            "query_string": b"",
            "headers": [(b"cookie", cookie.encode()), (b"host", b"mcp.example.com")],
            "client": ("203.0.113.7", 40000),
            "scheme": "https",
            "http_version": "1.1",
        }
        self.task = asyncio.ensure_future(lab.app(scope, self._receive, self._send))

    async def _receive(self) -> MutableMapping[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await self._sent.put(message)

    async def next(self) -> MutableMapping[str, Any]:
        return await asyncio.wait_for(self._sent.get(), 20)

    async def end(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 10)
