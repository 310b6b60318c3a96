"""Sessions as a way around gate two: fixation, theft, collecting the union of tasks. Nothing reaches an upstream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from harness.issuer import TestIssuer
from harness.stack import FRONTS, Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream

pytestmark = pytest.mark.parametrize("front", FRONTS, indirect=True)


async def declare(stack: Stack, token: str, task: object, **extra: object) -> httpx2.Response:
    return await stack.http.post(
        f"{stack.url}/sessions", json={"task": task, **extra}, headers={"authorization": f"Bearer {token}"}
    )


def sessions_token(stack: Stack, issuer: TestIssuer, agent: str = "robot") -> str:
    return issuer.token(f"{stack.url}/sessions", azp=agent, sub=agent)


async def test_a_declared_task_gives_its_tools_and_no_others(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    opened = (await declare(stack, sessions_token(stack, issuer), "report")).json()
    token = issuer.token(stack.resource())
    assert (await stack.call(token, "look", twogate_session=opened["session"])).status_code == 200
    refused = await stack.call(token, "find", twogate_session=opened["session"])
    assert refused.status_code == 403
    assert upstream.calls == ["look"]
    assert stack.reasons() == ["task_not_permitted"]


async def test_another_principals_session_is_refused(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    opened = (await declare(stack, sessions_token(stack, issuer), "edit")).json()
    thief = issuer.token(stack.resource(), azp="other", sub="other")
    refused = await stack.call(thief, "look", twogate_session=opened["session"])
    assert refused.status_code == 403
    assert upstream.seen == []
    assert stack.reasons() == ["session_mismatch"]


@pytest.mark.parametrize("session", ["chosen-by-the-attacker", "../../etc/passwd", "x" * 2000])
async def test_a_session_id_cannot_be_chosen(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, session: str
) -> None:
    refused = await stack.call(issuer.token(stack.resource()), "look", twogate_session=session)
    assert refused.status_code == 403
    assert upstream.seen == []
    assert stack.reasons() == ["session_unknown"]


async def test_declaring_task_after_task_does_not_collect_their_union(stack: Stack, issuer: TestIssuer) -> None:
    token = sessions_token(stack, issuer)
    answers = await asyncio.gather(*(declare(stack, token, task) for task in ("report", "edit") * 10))
    sessions = {answer.json()["session"] for answer in answers if answer.status_code == 200}
    assert len(sessions) == 1
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 10
    assert {answer.status_code for answer in refused} == {403}
    assert set(stack.reasons()) == {"task_limit"}


async def test_ending_a_session_early_frees_nothing(stack: Stack, issuer: TestIssuer) -> None:
    token = sessions_token(stack, issuer)
    opened = (await declare(stack, token, "report")).json()
    await stack.state.sessions.end(opened["session"], stack.state.clock.now())
    for task, reason in (("edit", "task_limit"), ("report", "session_ended")):
        refused = await declare(stack, token, task)
        assert refused.status_code == 403
        assert reason in stack.reasons()


async def test_an_ended_session_is_refused_at_the_next_call(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    opened = (await declare(stack, sessions_token(stack, issuer), "report")).json()
    token = issuer.token(stack.resource())
    assert (await stack.call(token, "look", twogate_session=opened["session"])).status_code == 200
    await stack.state.sessions.end(opened["session"], stack.state.clock.now())
    assert (await stack.call(token, "look", twogate_session=opened["session"])).status_code == 403
    assert upstream.calls == ["look"]


async def test_the_same_task_gives_the_same_session_and_deadline(stack: Stack, issuer: TestIssuer) -> None:
    token = sessions_token(stack, issuer)
    first, second = (await declare(stack, token, "report")).json(), (await declare(stack, token, "report")).json()
    assert first == second


async def test_session_and_task_headers_must_agree(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    opened = (await declare(stack, sessions_token(stack, issuer), "report")).json()
    refused = await stack.call(
        issuer.token(stack.resource()), "look", twogate_session=opened["session"], twogate_task="edit"
    )
    assert refused.status_code == 400
    assert upstream.seen == []
    assert stack.reasons() == ["session_conflict"]


async def test_a_token_for_a_server_does_not_declare_tasks(stack: Stack, issuer: TestIssuer) -> None:
    refused = await declare(stack, issuer.token(stack.resource()), "report")
    assert refused.status_code == 401
    assert stack.reasons() == ["audience_mismatch"]


@pytest.mark.parametrize("task", ["unknown", "", "REPORT", "report ", "*", "read", "report,edit"])
async def test_an_unknown_task_gives_no_session(stack: Stack, issuer: TestIssuer, task: str) -> None:
    refused = await declare(stack, sessions_token(stack, issuer), task)
    assert refused.status_code == 403
    assert "task_unknown" in stack.reasons()


@pytest.mark.parametrize("task", [["report"], {"a": 1}, None, 3, True])
async def test_a_task_of_another_type_is_refused(stack: Stack, issuer: TestIssuer, task: object) -> None:
    assert (await declare(stack, sessions_token(stack, issuer), task)).status_code == 400


async def test_unknown_members_of_a_declaration_are_refused(stack: Stack, issuer: TestIssuer) -> None:
    refused = await declare(stack, sessions_token(stack, issuer), "report", tools=["files.wipe"])
    assert refused.status_code == 400
    assert stack.reasons() == ["invalid_params"]


async def test_an_agent_without_a_task_has_no_tools(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    del settings["agents"]["acme/robot"]["default_task"]
    async with running(tmp_path, settings) as stack:
        token = issuer.token(stack.resource())
        refused = await stack.call(token, "look")
        assert refused.status_code == 403
        assert refused.json()["error"]["data"]["reason"] == "session_required"
        assert upstream.seen == []
        listed = await stack.post(
            token, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, mcp_protocol_version="2025-11-25"
        )
        assert listed.json()["result"]["tools"] == []
