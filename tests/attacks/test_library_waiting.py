"""R-34 and R-42: calls of a server that guards itself wait for people too, who decide on its own pages.

A real FastMCP server inside `twogate.asgi`, and a person with a passkey on the pages that the same application serves.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from fastmcp import FastMCP

from harness.database import place_database
from harness.issuer import TestIssuer
from harness.stack import settings_for, tool_call
from peoplelab import Browser
from processlab import here_json
from softkey import SoftKey
from twogate.asgi import Twogate, current
from twogate.fastmcp import TwogateMiddleware
from twogate.flows.gateway.approval_wait import Pace
from waitinglab import MODERN, TASKS, URL, reason, said

NAME = "mcp.example.com"
ORIGIN = f"https://{NAME}"


class PersonsBrowser(Browser):
    """A browser that reaches one application."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self.http = httpx2.AsyncClient(transport=transport, base_url=ORIGIN, headers={"Origin": ORIGIN})
        self.page: httpx2.Response | None = None


@dataclass
class Guarded:
    """The application, its server's tool, its agent and Bob, who may approve."""

    transport: httpx2.ASGITransport
    issuer: TestIssuer
    link: str
    ran: list[str]
    key: SoftKey = field(default_factory=lambda: SoftKey(ORIGIN, NAME))
    browser: PersonsBrowser = field(init=False)

    def __post_init__(self) -> None:
        self.browser = PersonsBrowser(self.transport)

    async def send(self, body: Any, **headers: str) -> httpx2.Response:
        """A request of the agent."""
        token = self.issuer.token(f"{ORIGIN}/mcp/files")
        sent = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
        sent |= {"mcp-protocol-version": URL, "twogate-task": "edit"} | headers
        async with httpx2.AsyncClient(transport=self.transport, base_url=ORIGIN, headers=sent) as http:
            return await http.post("/mcp/files", json=body)

    async def change(self, **arguments: Any) -> httpx2.Response:
        return await self.send(tool_call("change", arguments))

    async def modern(self, method: str, **params: Any) -> httpx2.Response:
        prefix = "io.modelcontextprotocol/"
        meta = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": TASKS}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        names = {"mcp-name": str(params.get("name") or params["taskId"])}
        return await self.send(body, **{"mcp-protocol-version": MODERN, "mcp-method": method, **names})

    async def decide(self, approval: str, how: Literal["approve", "deny"]) -> httpx2.Response:
        """Bob opens the page, and decides."""
        browser, path = self.browser, f"/approvals/{approval}"
        if browser.login is None:
            assert (await browser.open_link(self.link)).status_code == 303
            assert (await browser.enrol(self.key)).status_code == 303
            assert (await browser.log_in_by(self.key)).status_code == 303
        page = await browser.get(path)
        assert page.status_code == 200, page.text
        signed = {"credential": self.key.get(browser.options)} if how == "approve" else {}
        return await browser.post(f"{path}/{how}", comment="Read it.", **signed)


@pytest.fixture
async def guarded(tmp_path: Path, issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Guarded]:
    monkeypatch.setattr("twogate.approvals.PACE", Pace(hold=0.2, poll=0.02, word=0.1))
    ran: list[str] = []
    mcp = FastMCP("files", middleware=[TwogateMiddleware()])

    @mcp.tool
    def change(text: str = "") -> str:
        """Changes something."""
        ran.append(f"{text} for {current().agent}")
        return f"changed {text}"

    assert change is not None
    settings = settings_for(tmp_path, 443, {"files": {"library": True}}, issuer)
    settings |= {"public_url": ORIGIN, "listen": "127.0.0.1:8443"}
    settings["tools"]["files.change"]["approval"] = {"by": ["approver"]}
    config = tmp_path / "twogate.yaml"
    config.write_text(json.dumps(settings))
    place_database(tmp_path / "state" / "twogate.db")
    bob = here_json("user", "add", "acme/bob", "--duty", "approver", "--config", config)
    app = Twogate(mcp.http_app(stateless_http=True), config=config, server="files")
    async with app.running():
        yield Guarded(httpx2.ASGITransport(app=app), issuer, bob["link"], ran)


def approval_of(message: Any) -> str:
    found: str = message["result"]["_meta"]["io.modelcontextprotocol/authorization"]["authorizationContextId"]
    return found


async def test_a_call_waits_is_approved_on_a_page_and_runs_once_in_the_process(guarded: Guarded) -> None:
    first = await guarded.change(text="a")
    assert reason(first) == "approval_pending"
    approval = approval_of(said(first))
    assert guarded.ran == []
    answer = await guarded.decide(approval, "approve")
    assert answer.status_code == 303, answer.text
    assert guarded.ran == []
    answers = [said(await guarded.change(text="a")) for _ in range(3)]
    assert [message["result"]["content"][0]["text"] for message in answers] == ["changed a"] * 3
    assert guarded.ran == ["a for robot"]
    # Other arguments are another call.
    assert reason(await guarded.change(text="b")) == "approval_pending"
    assert guarded.ran == ["a for robot"]


async def test_a_denied_call_never_reaches_the_server(guarded: Guarded) -> None:
    approval = approval_of(said(await guarded.change(text="a")))
    assert (await guarded.decide(approval, "deny")).status_code == 303
    for _ in range(2):
        assert reason(await guarded.change(text="a")) == "approval_denied"
    assert guarded.ran == []


async def test_a_task_waits_and_runs_within_the_question_for_it(guarded: Guarded) -> None:
    made = said(await guarded.modern("tools/call", name="change", arguments={"text": "c"}))
    task = made["result"]["taskId"]
    assert said(await guarded.modern("tasks/get", taskId=task))["result"]["status"] == "working"
    assert (await guarded.decide(approval_of(made), "approve")).status_code == 303
    for _ in range(2):
        got = said(await guarded.modern("tasks/get", taskId=task))["result"]
        assert (got["status"], got["result"]["content"][0]["text"]) == ("completed", "changed c")
    assert guarded.ran == ["c for robot"]


async def test_who_is_not_logged_in_decides_nothing(guarded: Guarded) -> None:
    approval = approval_of(said(await guarded.change(text="a")))
    stranger = PersonsBrowser(guarded.transport)
    page = await stranger.get(f"/approvals/{approval}")
    assert page.status_code in (302, 303)
    for how in ("approve", "deny"):
        answer = await stranger.http.post(f"/approvals/{approval}/{how}", data={"comment": "x", "form_token": "y"})
        assert answer.status_code in (302, 303, 403)
    assert reason(await guarded.change(text="a")) == "approval_pending"
    assert guarded.ran == []
