"""The acts about the two gates themselves: who calls, what the task holds, and cutting off who called."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx2

from twogate.cli.demo.agent import HEADERS, Agent
from twogate.cli.demo.scenery import REPORTER, TASK
from twogate.cli.demo.step import Step

_UNAUTHORIZED: Final = 401
_CALL: Final[dict[str, Any]] = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "git_log", "arguments": {}},
}  # fmt: skip


async def who_calls(agent: Agent) -> AsyncGenerator[Step]:
    """Gate one: a call without a credential, with a good one, and with a good one for somewhere else."""
    git, sqlite = agent.stage.server_url("git"), agent.stage.server_url("sqlite")
    async with agent.http() as http:
        answer = await http.post(git, json=_CALL, headers=HEADERS)
    yield _unauthorized(agent, "call without a token", answer, "credential_missing")

    async with agent.connected("git"):
        tokens = agent.tokens(git)
    got = tokens is not None and tokens.expires_in is not None
    why = f"private_key_jwt; the token lives {tokens.expires_in} s" if tokens is not None else "no token"
    yield Step("get a token, connect", "one", "allow", why, got)

    async with agent.http() as http:
        answer = await http.post(sqlite, json=_CALL, headers=HEADERS | agent.bearer(git))
    yield _unauthorized(agent, "git's token at sqlite", answer, "audience_mismatch")


async def what_the_task_holds(agent: Agent) -> AsyncGenerator[Step]:
    """Gate two: the session of a task, what it shows and allows, and what it does not."""
    stage = agent.stage
    url = f"{stage.public_url}/sessions"
    async with agent.http(url) as http:
        answer = await http.post(url, json={"task": TASK})
    made: dict[str, Any] = answer.json() if answer.is_success else {}
    agent.session = made.get("session", "")
    minutes = (made.get("deadline", 0) - made.get("created_at", 0)) // 60
    why = f"a session of {minutes} minutes at most" if made else answer.text
    yield Step(f"declare the task {TASK}", "two", "allow" if made else "refuse", why, bool(made))

    client = await agent.client("git")
    names = sorted(tool.name for tool in (await client.list_tools()).tools)
    yield Step(
        "list the tools of git", "two", "filter", f"shown: {', '.join(names)}", names == ["git_commit", "git_log"]
    )

    done = await agent.call("git", "git_log", {"repo_path": str(stage.repository)})
    yield _read(done.text, "git_log", "3 commits read", "Start the quarterly figures" in done.text)

    # This server speaks an older version of the protocol than the client.
    done = await agent.call("sqlite", "read_query", {"query": "SELECT customer, total FROM orders"})
    yield _read(done.text, "read_query", "3 orders read", "Hooli" in done.text and "4300" in done.text)

    arguments = {"repo_path": str(stage.repository), "revision": "HEAD"}
    done = await agent.call("git", "git_show", arguments)
    yield Step("git_show, which is not in the task", "two", "refuse", done.why, done.exact == "task_not_permitted")


async def cut_off(agent: Agent) -> AsyncGenerator[Step]:
    """Gate one: the agent, which called a moment ago with the token that it has, is disabled; the token is not over."""
    await agent.leave()
    done, printed = await agent.stage.twogate("agent", "disable", REPORTER)
    yield Step(
        f"twogate agent disable {REPORTER}", "-", "done", "its tokens are not over yet" if done else printed, done
    )

    url = agent.stage.server_url("git")
    async with agent.http() as http:
        answer = await http.post(url, json=_CALL, headers=HEADERS | agent.bearer(url))
    yield _unauthorized(agent, "a call with the token that it has", answer, "agent_disabled")


def _read(text: str, name: str, why: str, found: bool) -> Step:
    return Step(name, "two", "allow" if found else "failed", why if found else text, found)


def _unauthorized(agent: Agent, name: str, answer: httpx2.Response, reason: str) -> Step:
    exact, status = agent.last_reason(), answer.status_code
    expected = status == _UNAUTHORIZED and exact == reason
    return Step(name, "one", "refuse", f"{exact} (HTTP {status})", expected)
