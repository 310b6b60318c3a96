"""The act about approvals: a call waits until a person signed for it with a passkey, and runs once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from twogate.cli.demo.agent import Agent, Answer, either
from twogate.cli.demo.approver import Approver
from twogate.cli.demo.browser import open_page
from twogate.cli.demo.devtools import BrowserError
from twogate.cli.demo.programs import run
from twogate.cli.demo.scenery import APPROVER
from twogate.cli.demo.step import Step

_TOOL: Final = "git_commit"
_MESSAGE: Final = "Correct the third quarter"
_ALTERED: Final = "Correct all the quarters"
_NAME: Final = APPROVER.partition("/")[2]


class Sent:
    """A commit that is called for, whose caller's user is sent to a page and stays there until `back` is set."""

    def __init__(self, agent: Agent, message: str) -> None:
        arguments = {"repo_path": str(agent.stage.repository), "message": message}
        self.page = ""
        self.back = asyncio.Event()
        self._asked = asyncio.Event()
        agent.visit = self._visit
        self._call = asyncio.create_task(agent.call("git", _TOOL, arguments))

    async def asked(self) -> bool:
        """Wait until the user is sent to a page, or the call is answered without; whether it waits."""
        return await either(self._asked, self._call)

    async def answer(self) -> Answer:
        """Let the user come back, and wait for the answer."""
        self.back.set()
        return await self._call

    async def give_up(self) -> None:
        """End the call, if it has no answer yet."""
        self._call.cancel()
        await asyncio.wait({self._call})

    async def _visit(self, url: str) -> None:
        self.page = url
        self._asked.set()
        await self.back.wait()


class Approving:
    """Plays it, with the browser that there is."""

    def __init__(self, agent: Agent, chromium: str | None) -> None:
        self._agent = agent
        self._chromium = chromium
        self._repository = agent.stage.repository
        self._before = self._commits()

    async def play(self) -> AsyncGenerator[Step]:
        """With a browser the call is approved, without one it is denied: approving takes a passkey."""
        sent = Sent(self._agent, _MESSAGE)
        try:
            waits = await sent.asked() and self._new() == []
            where = f"its user is sent to {urlsplit(sent.page).path}; no commit yet"
            yield Step(_TOOL, "two", "wait", where if waits else f"{(await sent.answer()).told}", waits)
            if waits:
                async for step in self._decided(sent):
                    yield step
        finally:
            await sent.give_up()

    async def _decided(self, sent: Sent) -> AsyncGenerator[Step]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                if self._chromium is None:
                    raise BrowserError("no Chromium is found; --chromium PATH names one")
                directory, certificate = self._agent.stage.directory, self._agent.stage.directory / "server.pem"
                page = await stack.enter_async_context(open_page(self._chromium, certificate, directory))
            except BrowserError as error:
                async for step in self._denied(sent, str(error)):
                    yield step
                return
            approver = Approver(page, self._agent.stage.approver.link)
            await approver.enrol()
            yield Step(f"{_NAME} enrols a passkey", "-", "done", "by the one-time link of `twogate user add`", True)
            await approver.approve(sent.page, _MESSAGE)
            why = "read the whole call on its page, and signed it with the passkey"
            yield Step(f"{_NAME} decides in the browser", "two", "approve", why, True)
        async for step in self._approved(sent):
            yield step

    async def _approved(self, sent: Sent) -> AsyncGenerator[Step]:
        first = await sent.answer()
        ran = first.ran and self._new() == [_MESSAGE]
        yield Step(f"the agent's {_TOOL}", "two", "allow", "it ran: 1 new commit" if ran else first.why, ran)

        again = await self._call(_MESSAGE)
        same = again == first and self._new() == [_MESSAGE]
        why = "the answer of its one run; still 1 new commit" if same else again.text or again.why
        yield Step("the same call once more", "two", "allow", why, same)

        other = Sent(self._agent, _ALTERED)
        try:
            waits = await other.asked() and other.page != sent.page and self._new() == [_MESSAGE]
        finally:
            await other.give_up()
        yield Step("the call with another message", "two", "wait", "another call needs its own approval", waits)

        holds, printed = await self._agent.stage.twogate("approval", "verify", "--json")
        found: dict[str, Any] = msgspec.json.decode(printed) if holds else {}
        holds = [(one["ok"], one["tool"]) for one in found.get("approvals", [])] == [(True, f"git.{_TOOL}")]
        why = f"{_NAME}'s signature holds, by the audit trail alone" if holds else printed
        yield Step("twogate approval verify", "-", "verified" if holds else "failed", why, holds)

    async def _denied(self, sent: Sent, problem: str) -> AsyncGenerator[Step]:
        yield Step(f"{_NAME} cannot approve", "-", "skipped", f"a passkey takes a browser: {problem}", True)

        approval = urlsplit(sent.page).path.rpartition("/")[2]
        denied, printed = await self._agent.stage.twogate("approval", "deny", approval, "--comment", "no browser")
        why = "by an operator; denying takes no passkey" if denied else printed
        yield Step("twogate approval deny", "two", "deny", why, denied)

        for name, answer in (
            (f"the agent's {_TOOL}", await sent.answer()),
            ("the same call once more", await self._call(_MESSAGE)),
        ):
            told = answer.exact == "approval_denied" and self._new() == []
            yield Step(name, "two", "ALLOWED" if answer.ran else "refuse", f"{answer.why}; no commit", told)

    async def _call(self, message: str) -> Answer:
        """A call that is answered at once."""
        sent = Sent(self._agent, message)
        try:
            return Answer(told="it waits") if await sent.asked() else await sent.answer()
        finally:
            await sent.give_up()

    def _new(self) -> list[str]:
        """The messages of the commits since the act began, newest first."""
        commits = self._commits()
        return commits[: len(commits) - len(self._before)]

    def _commits(self) -> list[str]:
        return run(["git", "log", "--all", "--format=%s"], self._repository).splitlines()
