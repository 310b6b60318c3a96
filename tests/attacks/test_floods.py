"""Strangers that send much: limited before authentication, and unable to fill the disk with their refusals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2

from harness.issuer import TestIssuer
from harness.stack import free_port, running, settings_for
from harness.upstream import RecordingUpstream


async def test_an_address_is_limited_before_anything_of_its_request_is_read(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"requests": 1, "burst": 5}
    async with running(tmp_path, settings) as stack:
        token = issuer.token(stack.resource())
        answers = [await stack.call(token, "look") for _ in range(20)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert len(limited) >= 10
        assert len(upstream.calls) == 20 - len(limited)
        assert int(limited[0].headers["retry-after"]) >= 1
        assert limited[0].json()["error"]["data"]["reason"] == "rate_limited"


async def test_the_control_plane_shares_the_limit_and_health_does_not(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"requests": 1, "burst": 5}
    async with running(tmp_path, settings) as stack:
        answers = [await stack.http.post(f"{stack.url}/token", data={"grant_type": "x"}) for _ in range(15)]
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        for path in ("/healthz", "/readyz"):
            assert (await stack.http.get(stack.url + path)).status_code == 200


async def test_a_flood_of_refusals_is_a_handful_of_events(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"requests": 100_000, "burst": 100_000}
    async with running(tmp_path, settings) as stack:
        for _ in range(200):
            refused: httpx2.Response = await stack.call("not.a.token", "look")
            assert refused.status_code == 401
        written = [event for event in stack.events() if event.get("reason") == "token_malformed"]
        assert 1 <= len(written) <= 3
        assert upstream.seen == []
    # What was counted is written when the gateway stops.
    events = stack.events()
    assert sum(event.get("count", 1) for event in events if event.get("reason") == "token_malformed") == 200


async def test_a_flood_of_bad_clients_is_a_handful_of_events(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"requests": 100_000, "burst": 100_000}
    async with running(tmp_path, settings) as stack:
        form = {"grant_type": "client_credentials", "resource": stack.resource()}
        for number in range(200):
            refused = await stack.http.post(f"{stack.url}/token", data=form, auth=(f"client{number}", "wrong"))
            assert refused.status_code == 401
        assert 1 <= len([event for event in stack.events() if event["kind"] == "token.refused"]) <= 3
    assert sum(event.get("count", 1) for event in stack.events() if event.get("reason") == "client_invalid") == 200


async def test_one_agent_cannot_take_every_connection_of_a_server(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"calls_per_agent": 3}
    async with running(tmp_path, settings) as stack:
        upstream.raw_answer = b""  # it reads the call and keeps silent
        greedy = issuer.token(stack.resource())
        held = [asyncio.create_task(stack.call(greedy, "look")) for _ in range(3)]
        while len(upstream.seen) < 3:
            await asyncio.sleep(0.01)
        refused = await stack.call(greedy, "look")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        upstream.raw_answer = None
        other = issuer.token(stack.resource(), azp="other", sub="other")
        assert (await stack.call(other, "look")).status_code == 200
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        answer = refused
        while answer.status_code == 429:  # until the gateway noticed that the callers went away
            answer = await stack.call(greedy, "look")
        assert answer.status_code == 200


async def test_a_hijacked_agent_runs_a_tool_no_more_often_than_allowed_and_its_other_tools_go_on(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    settings["limits"] = {"tool": {"rate": 1, "burst": 3}}
    async with running(tmp_path, settings) as stack:
        token = issuer.token(stack.resource())
        answers = await asyncio.gather(*(stack.call(token, "look") for _ in range(20)))
        ran = [answer for answer in answers if answer.status_code == 200]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert (len(ran) + len(limited), len(upstream.calls)) == (20, len(ran))
        assert 3 <= len(ran) < 20
        assert int(limited[0].headers["retry-after"]) >= 1
        # Listing is another entry, and is not held up.
        listed = await stack.post(token, {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
        assert listed.status_code == 200
        refused = [event for event in stack.events() if event.get("reason") == "rate_limited"]
        assert len(refused) == len(limited)
        assert {event["agent"] for event in refused} == {ran_by(stack.events())}


def ran_by(events: list[dict[str, object]]) -> object:
    return next(event["agent"] for event in events if event["kind"] == "call.intent")
