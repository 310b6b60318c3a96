"""Operation tokens: forged, replayed, for another call, by whom may not issue them; and what failures leave."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey
from sqlalchemy import text

from attacks.test_handles import events, shown
from harness.issuer import TestIssuer
from harness.stack import FRONTS
from harness.upstream import RecordingUpstream
from operationlab import ARGUMENTS, SECRET, OperationLab, claims_of, open_operation_lab, refusal
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.authserver.revocations import Revocations
from twogate.flows.operations.minter import Minter, Minters
from twogate.stores.sql.engine import writing
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.stores.sql.users import SqlUserStore


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[OperationLab]:
    async with open_operation_lab(tmp_path, issuer, upstream) as made:
        yield made


async def ready(lab: OperationLab) -> tuple[str, str, str]:
    """An agent's token, its session, and a good operation token."""
    helper = await lab.helper()
    sid = await lab.sid(helper)
    return helper, sid, await lab.mint(await lab.host(), sid)


async def refused(lab: OperationLab, helper: str, operation: str | None, reason: str, **call: Any) -> None:
    """The call is refused with this code, and the server saw nothing."""
    before = list(lab.ran)
    answer = await lab.change(helper, operation, **call)
    assert refusal(answer) == reason
    assert lab.ran == before
    recorded = lab.last_refusal()
    assert (recorded["kind"], recorded["reason"]) == ("call.refused", reason)
    if operation is not None:
        assert operation not in json.dumps(lab.stack.events())


# Forged.


async def test_what_this_server_did_not_sign_as_an_operation_token_is_refused(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    claims, kid = claims_of(good), lab.signer.kid
    other = ECKey.generate_key("P-256")
    public = json.dumps(lab.signer.public_jwk()).encode()
    head, body, signature = good.split(".")
    none = urlsafe_b64encode(json.dumps({"alg": "none", "typ": "op+jwt", "kid": kid}).encode()).rstrip(b"=").decode()
    altered = urlsafe_b64encode(json.dumps({**claims, "tool": "files.wipe"}).encode()).rstrip(b"=").decode()
    forged = {
        "another key, our kid": jws.serialize_compact(
            {"alg": "ES256", "typ": "op+jwt", "kid": kid}, json.dumps(claims), other
        ),
        "its own key in the header": jws.serialize_compact(
            {"alg": "ES256", "typ": "op+jwt", "jwk": other.as_dict(private=False)}, json.dumps(claims), other
        ),
        "the trusted issuer's key": lab.issuer.token(lab.stack.resource(), **claims),
        "no signature": f"{none}.{body}.AA",
        "HS256 with our public key": jws.serialize_compact(
            {"alg": "HS256", "typ": "op+jwt", "kid": kid}, json.dumps(claims), OctKey.import_key(public), ["HS256"]
        ),
        "other claims": f"{head}.{altered}.{signature}",
        "an access token": await lab.host(),
        "an access token with every claim": await lab.signed(claims, "at+jwt"),
        "no type": await lab.signed(claims, ""),
        "another server's": await lab.signed({**claims, "iss": "https://elsewhere.example"}),
        "for ever": await lab.signed({**claims, "exp": claims["iat"] + 86400}),
        "from the future": await lab.signed({**claims, "iat": claims["iat"] + 600, "exp": claims["iat"] + 660}),
        "no text": "x" * 20_000,
        "not a token": "hunter2",
    } | {
        f"without {name}": await lab.signed({key: value for key, value in claims.items() if key != name})
        for name in claims
        if name != "user"
    }
    for name, token in forged.items():
        answer = await lab.change(helper, token)
        assert (name, refusal(answer)) == (name, "operation_token_invalid")
    for value in (None, 7, [good], {"token": good}, ""):
        params = {"name": "change", "arguments": ARGUMENTS, "_meta": {"dev.twogate/operation-token": value}}
        raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        assert refusal(await lab.change(helper, None, raw=raw)) == "operation_token_invalid"
    assert lab.ran == []
    # Nothing of all this used the good one up.
    assert (await lab.change(helper, good)).status_code == 200
    assert lab.ran == ["change"]


async def test_an_operation_token_opens_nothing_as_an_access_token(lab: OperationLab) -> None:
    _, sid, good = await ready(lab)
    assert (await lab.stack.call(good, "look")).status_code == 401
    assert (await lab.ask(good, sid)).status_code == 401
    assert lab.upstream.seen == []


# Replayed.


async def test_of_twenty_calls_at_once_with_one_token_one_runs(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    answers = await asyncio.gather(*(lab.change(helper, good) for _ in range(20)))
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert {refusal(answer) for answer in answers if answer.status_code != 200} == {"operation_token_used"}
    assert lab.ran == ["change"]
    await refused(lab, helper, good, "operation_token_used")


async def test_a_token_in_both_places_counts_if_they_say_the_same(lab: OperationLab) -> None:
    helper, sid, good = await ready(lab)
    other = await lab.mint(await lab.host(), sid)
    for header in (other, "x", ""):
        await refused(lab, helper, good, "operation_token_invalid", twogate_operation_token=header)
    answer = await lab.change(helper, good, twogate_operation_token=good)
    assert answer.status_code == 200
    assert (await lab.change(helper, other, where="header")).status_code == 200
    for seen in lab.upstream.seen:
        assert "operation" not in json.dumps(seen.headers)
        assert b"dev.twogate" not in seen.body
    assert lab.ran == ["change", "change"]


# Other arguments.


@pytest.mark.parametrize("front", FRONTS, indirect=True)
async def test_what_means_the_same_has_the_same_digest_and_runs_as_it_was_signed(lab: OperationLab) -> None:
    helper = await lab.helper()
    sid = await lab.sid(helper)
    signed = {"n": 1, "e": 100, "zero": 0, "text": "caf\u00e9", "deep": {"b": [1, True, None], "a": "x/y"}}
    spelled = rb"""{"jsonrpc":"2.0","id":"s","method":"tools/call","params":{"name":"change","arguments":
        {"zero":-0.0,"deep":{"a":"x\/y","b":[1.0,true,null]},"text":"caf\u00e9","e":1e2,"n":1.0},
        "_meta":{"progressToken":7,"x.example/y":1,"dev.twogate/operation-token":"TOKEN"}}}"""
    token = await lab.mint(await lab.host(), sid, arguments=signed)
    answer = await lab.change(helper, None, raw=spelled.replace(b"TOKEN", token.encode()))
    assert answer.status_code == 200
    assert answer.json()["id"] == "s"
    canonical = '"arguments":{"deep":{"a":"x/y","b":[1,true,null]},"e":100,"n":1,"text":"café","zero":0}'
    assert canonical.encode() in lab.upstream.seen[-1].body
    assert lab.upstream.seen[-1].message["params"]["_meta"] == {"progressToken": 7}


async def test_other_arguments_are_another_call(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    for arguments in (
        {"path": "/b", "text": "hello"},
        {"path": "/a", "text": "hello", "force": True},
        {"path": "/a"},
        {"path": "/a", "text": "hello "},
        {"path": "/a", "text": ["hello"]},
        {"path": "/a", "text": None},
        {"PATH": "/a", "text": "hello"},
        {},
    ):
        await refused(lab, helper, good, "operation_token_mismatch", arguments=arguments)
    # Nor may anything be added around them that the server would read.
    params = {"name": "change", "arguments": ARGUMENTS, "inputResponses": {"x": 1}}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    await refused(lab, helper, good, "operation_token_mismatch", raw=raw, where="header")
    assert (await lab.change(helper, good)).status_code == 200


async def test_what_only_looks_the_same_is_another_call(lab: OperationLab) -> None:
    helper = await lab.helper()
    sid = await lab.sid(helper)
    # Unicode's composed and decomposed forms, digits that are not ASCII, a number and its text, true and 1.
    for signed, sent in (
        ("caf\u00e9", "cafe\u0301"),
        ("\u212b", "\u00c5"),
        ("1", "\uff11"),
        ("1", 1),
        (1, True),
        (0, False),
        (0.1, 0.10000000000000002),
        ([1, 2], [2, 1]),
        ("a", "\u0430"),
        ("x", "x\u200b"),
    ):
        token = await lab.mint(await lab.host(), sid, arguments={"v": signed})
        await refused(lab, helper, token, "operation_token_mismatch", arguments={"v": sent})
    assert lab.ran == []


async def test_what_peers_would_read_differently_is_refused_at_both_ends(lab: OperationLab) -> None:
    helper, sid, good = await ready(lab)
    bodies = {
        b'{"v":9007199254740993}': {"bad_number"},
        b'{"v":9007199254740993.0}': {"bad_number"},
        b'{"v":-9007199254740992}': {"bad_number"},
        b'{"v":1e300}': {"bad_number"},
        b'{"v":1,"v":1}': {"duplicate_key"},
        b'{"d":{"v":1,"v":2}}': {"duplicate_key"},
        b'{"d":[{"v":1,"\\u0076":2}]}': {"duplicate_key"},
        b'{"v":"\\ud800"}': {"not_utf8"},
        b'{"\\udfff":1}': {"not_utf8"},
        b'{"v":NaN}': {"bad_number", "parse_error"},
    }
    for arguments, reasons in bodies.items():
        raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"change","arguments":%b,' % arguments
        raw += b'"_meta":{"dev.twogate/operation-token":"%b"}}}' % good.encode()
        answer = await lab.change(helper, None, raw=raw)
        assert refusal(answer) in reasons, arguments
        asked = await lab.stack.http.post(
            f"{lab.url}/operations/tokens",
            content=b'{"sid":"%b","tool":"files.change","arguments":%b}' % (sid.encode(), arguments),
            headers={"authorization": f"Bearer {await lab.host()}", "content-type": "application/json"},
        )
        assert refusal(asked) in reasons, arguments
    assert lab.ran == []


async def test_too_large_a_call_takes_no_token(lab: OperationLab) -> None:
    helper, sid, good = await ready(lab)
    large = {"text": "x" * 300_000}
    await refused(lab, helper, good, "too_large", arguments=large)
    assert refusal(await lab.ask(await lab.host(), sid, arguments=large)) == "too_large"


# Another call altogether.


async def test_each_bound_field_is_compared(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    claims = claims_of(good)
    user: dict[str, str] = claims["user"]
    for changed in (
        {"aud": f"{lab.url}/mcp/notes"},
        {"aud": f"{lab.url}/operations"},
        {"tenant": "globex"},
        {"agent_issuer": lab.issuer.url},
        {"agent": "robot"},
        {"user": {**user, "sub": lab.bob.subject}},
        {"user": {**user, "iss": lab.issuer.url}},
        {"sid": "another"},
        {"tool": "files.wipe"},
        {"tool": "notes.change"},
        {"digest": "0" * 64},
        {"digest": claims["digest"].upper()},
    ):
        await refused(lab, helper, await lab.signed({**claims, **changed}), "operation_token_mismatch")
    nobody = {name: value for name, value in claims.items() if name != "user"}
    await refused(lab, helper, await lab.signed(nobody), "operation_token_mismatch")
    assert (await lab.change(helper, good)).status_code == 200


async def test_a_token_is_of_no_use_to_another_agent_person_session_or_tool(lab: OperationLab) -> None:
    _, _, good = await ready(lab)
    robot, bobs = lab.robot(), await lab.helper(lab.bob)
    await lab.sid(robot)
    await lab.sid(bobs)
    for other in (robot, bobs):
        await refused(lab, other, good, "operation_token_mismatch")
    robots = await lab.mint(await lab.authorizer(), await lab.sid(robot))
    helper = await lab.helper()
    await refused(lab, helper, robots, "operation_token_mismatch")
    # Another tool, and another session of the very same agent, for a task that allows the same tool.
    await refused(lab, helper, good, "operation_token_mismatch", tool="find")
    await lab.sid(helper, "again")
    await refused(lab, helper, good, "operation_token_mismatch", task="again")
    assert lab.ran == []
    assert (await lab.change(helper, good)).status_code == 200


async def test_a_call_that_needs_no_token_and_brings_one_is_judged_alike(lab: OperationLab) -> None:
    helper, sid, good = await ready(lab)
    for operation in (good, "made up"):
        answer = await lab.change(helper, operation, tool="look", arguments={})
        assert refusal(answer) in {"operation_token_mismatch", "operation_token_invalid"}
    listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = await lab.stack.post(
        helper, listed, mcp_protocol_version="2025-11-25", twogate_operation_token=good, twogate_task="edit"
    )
    assert refusal(answer) == "operation_token_mismatch"
    assert lab.upstream.seen == []
    own = await lab.mint(await lab.host(), sid, "files.look", arguments={})
    assert (await lab.change(helper, own, tool="look", arguments={})).status_code == 200
    await refused(lab, helper, own, "operation_token_used", tool="look", arguments={})


async def test_in_a_batch_each_message_brings_its_own(lab: OperationLab) -> None:
    helper, sid, first = await ready(lab)
    second = await lab.mint(await lab.host(), sid)

    def member(request_id: int, token: str | None) -> dict[str, Any]:
        meta = {} if token is None else {"_meta": {"dev.twogate/operation-token": token}}
        params = {"name": "change", "arguments": ARGUMENTS, **meta}
        return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}

    batch = [member(1, first), member(2, second), member(3, first), member(4, None)]
    answer = await lab.stack.post(helper, batch, mcp_protocol_version="2025-03-26", twogate_task="edit")
    assert answer.status_code == 200
    told = {one["id"]: one.get("error", {}).get("data", {}).get("reason") for one in answer.json()}
    assert told == {1: None, 2: None, 3: "operation_token_used", 4: "operation_token_required"}
    assert lab.ran == ["change", "change"]


async def test_without_a_token_or_too_late_nothing_runs(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    await refused(lab, helper, None, "operation_token_required")
    claims, now = claims_of(good), int(time.time())
    late = await lab.signed({**claims, "jti": "late", "iat": now - 60, "exp": now})
    await refused(lab, helper, late, "operation_token_invalid")
    # Of one that was used in time, a late retry is told so.
    assert (await lab.change(helper, good)).status_code == 200
    used = await lab.signed({**claims, "iat": now - 60, "exp": now})
    await refused(lab, helper, used, "operation_token_used")


async def test_prompts_and_resources_are_gated_alike(lab: OperationLab) -> None:
    helper = await lab.helper()
    sid = await lab.sid(helper)
    lab.upstream.extra |= {"prompts/get": {"messages": []}, "resources/read": {"contents": []}}
    for method, target, params in (
        ("prompts/get", "files.prompt:p", {"name": "p", "arguments": {"a": "1"}}),
        ("resources/read", "files.resource:file:///gated", {"uri": "file:///gated"}),
    ):
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        sent = {"mcp_protocol_version": "2025-11-25", "twogate_task": "edit"}
        assert refusal(await lab.stack.post(helper, message, **sent)) == "operation_token_required"
        token = await lab.mint(await lab.host(), sid, target, arguments=params.get("arguments", {}))
        answer = await lab.stack.post(helper, message, twogate_operation_token=token, **sent)
        assert answer.status_code == 200, answer.text
        # Subscribing to it, or asking for its completions, is another call.
        token = await lab.mint(await lab.host(), sid, target, arguments=params.get("arguments", {}))
        ref = (
            {"type": "ref/prompt", "name": "p"}
            if method == "prompts/get"
            else {"type": "ref/resource", "uri": "file:///gated"}
        )
        other = {"ref": ref, "argument": {"name": "a", "value": "1"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": other}
        answer = await lab.stack.post(helper, message, twogate_operation_token=token, **sent)
        assert refusal(answer) == "operation_token_mismatch"
    assert [seen.message["method"] for seen in lab.upstream.seen] == ["prompts/get", "resources/read"]


async def test_what_a_started_call_goes_on_with_needs_no_token_but_each_answer_to_the_server_does(
    lab: OperationLab,
) -> None:
    helper, sid, good = await ready(lab)
    # A task: who started it may ask how it goes and end it.
    lab.upstream.raw_answer = answered({"task": {"taskId": "t-1", "status": "working"}})
    created = (await lab.change(helper, good)).json()
    lab.upstream.raw_answer = answered({"taskId": "t-1", "status": "working"})
    for method in ("tasks/get", "tasks/cancel"):
        message = {"jsonrpc": "2.0", "id": 1, "method": method}
        message["params"] = {"taskId": created["result"]["task"]["taskId"]}
        sent = {"mcp_protocol_version": "2025-11-25", "twogate_task": "edit"}
        assert (await lab.stack.post(helper, message, **sent)).status_code == 200
    # The same call as a task is another one.
    lab.upstream.raw_answer = None
    token = await lab.mint(await lab.host(), sid)
    params = {"name": "change", "arguments": ARGUMENTS, "task": {"ttl": 1000}}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    await refused(lab, helper, token, "operation_token_mismatch", raw=raw, where="header")
    with_task = await lab.mint(await lab.host(), sid, params={"task": {"ttl": 1000}})
    assert (await lab.change(helper, with_task, raw=raw, where="header")).status_code == 200


async def test_each_round_of_a_question_is_signed_for_again(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url, "client_requests": ["elicitation"]}}
    async with open_operation_lab(tmp_path, issuer, upstream, servers=servers) as lab:
        await each_round(lab)


async def each_round(lab: OperationLab) -> None:
    helper, sid, good = await ready(lab)
    elicit = {"method": "elicitation/create", "params": {"message": "sure?", "requestedSchema": {"type": "object"}}}
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }

    async def call(token: str, **more: Any) -> Any:
        params = {"name": "change", "arguments": ARGUMENTS, "_meta": meta, **more}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        modern = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": "change"}
        return await lab.stack.post(helper, message, twogate_task="edit", twogate_operation_token=token, **modern)

    lab.upstream.extra["tools/call"] = {
        "resultType": "input_required", "inputRequests": {"a": elicit}, "requestState": "upstream-state",
    }  # fmt: skip
    asked = await call(good)
    assert asked.status_code == 200, asked.text
    state = asked.json()["result"]["requestState"]
    del lab.upstream.extra["tools/call"]
    yes = {"a": {"action": "accept", "content": {"sure": True}}}
    no_answer, for_no = (
        await lab.mint(await lab.host(), sid),
        await lab.mint(await lab.host(), sid, input_responses={"a": {"action": "decline"}}),
    )
    assert refusal(await call(good, requestState=state, inputResponses=yes)) == "operation_token_mismatch"
    for token in (no_answer, for_no):
        assert refusal(await call(token, requestState=state, inputResponses=yes)) == "operation_token_mismatch"
    assert lab.ran == ["change"]
    for_yes = await lab.mint(await lab.host(), sid, input_responses=yes)
    assert (await call(for_yes, requestState=state, inputResponses=yes)).status_code == 200
    sent = lab.upstream.seen[-1].message["params"]
    assert (sent["requestState"], sent["inputResponses"]) == ("upstream-state", yes)
    assert lab.ran == ["change", "change"]


async def test_an_answer_signed_for_one_call_does_not_go_on_with_another(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url, "client_requests": ["elicitation"]}}
    async with open_operation_lab(tmp_path, issuer, upstream, servers=servers) as lab:
        await other_state(lab)


async def other_state(lab: OperationLab) -> None:
    # The server believes its own state: it would do what the first round of that call said, whatever the second says.
    helper = await lab.helper()
    sid = await lab.sid(helper)
    small, large, yes = {"amount": 1}, {"amount": 10_000}, {"a": {"action": "accept"}}
    states = {}
    for arguments in (small, large):
        lab.upstream.extra["tools/call"] = {
            "resultType": "input_required", "inputRequests": {"a": ELICIT}, "requestState": f"{arguments}",
        }  # fmt: skip
        asked = await modern(lab, helper, await lab.mint(await lab.host(), sid, arguments=arguments), arguments)
        assert asked.status_code == 200, asked.text
        states[arguments["amount"]] = asked.json()["result"]["requestState"]
    del lab.upstream.extra["tools/call"]
    lab.upstream.seen.clear()
    signed = await lab.mint(await lab.host(), sid, arguments=small, input_responses=yes)
    crossed = await modern(lab, helper, signed, small, requestState=states[10_000], inputResponses=yes)
    assert refusal(crossed) == "operation_token_mismatch"
    assert lab.ran == []
    # Which used nothing up.
    own = await modern(lab, helper, signed, small, requestState=states[1], inputResponses=yes)
    assert own.status_code == 200, own.text
    assert lab.upstream.seen[-1].message["params"]["requestState"] == f"{small}"


async def test_a_call_that_needs_no_token_does_not_go_on_with_one_that_was_signed_for(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    servers = {"files": {"url": upstream.url, "client_requests": ["elicitation"]}}
    async with open_operation_lab(tmp_path, issuer, upstream, servers=servers) as lab:
        helper = await lab.helper()
        sid = await lab.sid(helper)
        lab.upstream.extra["tools/call"] = {
            "resultType": "input_required", "inputRequests": {"a": ELICIT}, "requestState": "10000",
        }  # fmt: skip
        signed = await lab.mint(await lab.host(), sid, "files.look", arguments={"amount": 10_000})
        asked = await modern(lab, helper, signed, {"amount": 10_000}, name="look")
        assert asked.status_code == 200, asked.text
        state = asked.json()["result"]["requestState"]
        del lab.upstream.extra["tools/call"]
        lab.upstream.seen.clear()
        others: tuple[dict[str, Any], ...] = ({"amount": 1}, {}, {"amount": 10_000, "more": 1})
        for arguments in others:
            crossed = await modern(lab, helper, None, arguments, name="look", requestState=state)
            assert refusal_of_any(crossed) == "request_state_unknown"
        assert lab.ran == []
        assert lab.last_refusal()["reason"] == "request_state_unknown"
        # The same call may go on, and what it is asked next belongs to it as well.
        lab.upstream.extra["tools/call"] = {
            "resultType": "input_required", "inputRequests": {"a": ELICIT}, "requestState": "10000 again",
        }  # fmt: skip
        own = await modern(lab, helper, None, {"amount": 1e4}, name="look", requestState=state, inputResponses={})
        assert own.status_code == 200, own.text
        state = own.json()["result"]["requestState"]
        crossed = await modern(lab, helper, None, {"amount": 1}, name="look", requestState=state)
        assert refusal_of_any(crossed) == "request_state_unknown"
        assert lab.ran == ["look"]


async def test_the_server_of_a_signed_call_asks_nothing_by_the_way(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # What the agent would answer, nobody signed for.
    servers = {"files": {"url": upstream.url, "client_requests": ["elicitation", "sampling"]}}
    asking = {"jsonrpc": "2.0", "id": "ask-1", **ELICIT}
    done = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
    async with open_operation_lab(tmp_path, issuer, upstream, servers=servers) as lab:
        helper, sid, good = await ready(lab)
        free = await lab.mint(await lab.host(), sid, "files.look", arguments={})
        for tool, operation, arguments in (("change", good, ARGUMENTS), ("look", free, {})):
            upstream.seen.clear()
            upstream.raw_answer = events(asking, done)
            answer = await lab.change(helper, operation, arguments, tool=tool)
            assert shown(answer) == [done]
            call, refused_to_it = (seen.message for seen in upstream.seen)
            assert call["params"]["name"] == tool
            assert (refused_to_it["id"], refused_to_it["error"]["code"]) == ("ask-1", -32601)
        # A call that nobody signed for may be asked about.
        answer = await lab.change(helper, None, {}, tool="look")
        assert [message.get("method") for message in shown(answer)] == ["elicitation/create", None]
    passed = [event["decision"] for event in lab.stack.events() if event["kind"] == "server.request"]
    assert passed == ["deny", "deny", "allow"]


async def test_input_signed_for_one_task_is_none_for_another(lab: OperationLab) -> None:
    helper = await lab.helper()
    sid = await lab.sid(helper)
    tasks = []
    for name in ("t-1", "t-2"):
        lab.upstream.extra["tools/call"] = {"resultType": "task", "taskId": name, "status": "working"}
        made = await modern(lab, helper, await lab.mint(await lab.host(), sid))
        assert made.status_code == 200, made.text
        tasks.append(made.json()["result"]["taskId"])
    lab.upstream.raw_answer = answered({"resultType": "complete"})
    lab.upstream.seen.clear()
    yes = {"a": {"action": "accept"}}
    update: dict[str, Any] = {"method": "tasks/update", "input_responses": yes, "arguments": {}}
    # Nobody signs for input to whichever task.
    for params in ({}, {"taskId": 7}, {"taskId": ""}):
        assert refusal(await lab.ask(await lab.host(), sid, **update, params=params)) == "invalid_params"
    token = await lab.mint(await lab.host(), sid, **update, params={"taskId": tasks[0]})
    for more in ({"taskId": tasks[1]}, {"taskId": tasks[0], "requestState": "x"}):
        crossed = await updated(lab, helper, token, inputResponses=yes, **more)
        assert refusal(crossed) == "operation_token_mismatch"
    assert lab.upstream.seen == []
    answer = await updated(lab, helper, token, inputResponses=yes, taskId=tasks[0])
    assert answer.status_code == 200, answer.text
    assert lab.upstream.seen[-1].message["params"]["taskId"] == "t-1"


async def test_nothing_is_added_to_a_call_under_the_name_of_a_handle(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    params = {"name": "change", "arguments": ARGUMENTS, "taskId": "t-9"}
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    await refused(lab, helper, good, "operation_token_mismatch", raw=raw, where="header")


ELICIT = {"method": "elicitation/create", "params": {"message": "sure?", "requestedSchema": {"type": "object"}}}


async def modern(
    lab: OperationLab,
    helper: str,
    token: str | None,
    arguments: Any = ARGUMENTS,
    method: str = "tools/call",
    name: str = "change",
    **more: Any,
) -> Any:
    """A call of the stateless version; of another method, `more` is all that it says."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    calls = method == "tools/call"
    params = {"_meta": meta, **({"name": name, "arguments": arguments} if calls else {}), **more}
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {"mcp_protocol_version": "2026-07-28", "mcp_method": method}
    headers["mcp_name"] = name if calls else more["taskId"]
    if token is not None:
        headers["twogate_operation_token"] = token
    return await lab.stack.post(helper, message, twogate_task="edit", **headers)


async def updated(lab: OperationLab, helper: str, token: str, **params: Any) -> Any:
    return await modern(lab, helper, token, method="tasks/update", **params)


async def test_a_stdio_server_gets_the_signed_bytes_too(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    lines = tmp_path / "lines"
    script = f"""
import json, sys
for line in sys.stdin:
    open({str(lines)!r}, "a").write(line)
    message = json.loads(line)
    if "id" in message:
        known = {{"initialize": {{"protocolVersion": "2025-11-25", "capabilities": {{}}, "serverInfo":
            {{"name": "s", "version": "1"}}}}, "tools/call": {{"content": []}}}}
        print(json.dumps({{"jsonrpc": "2.0", "id": message["id"], "result": known[message["method"]]}}), flush=True)
"""
    (tmp_path / "server.py").write_text(script)
    servers = {"files": {"command": [sys.executable, "-I", str(tmp_path / "server.py")]}}
    async with open_operation_lab(tmp_path, issuer, upstream, one_tenant=True, servers=servers) as lab:
        helper = await lab.helper()
        sid = await lab.sid(helper)
        arguments = {"z": 1e-6, "a": "é", "n": 5.0}
        token = await lab.mint(await lab.host(), sid, arguments=arguments)
        assert (await lab.change(helper, token, arguments)).status_code == 200
        assert '"arguments":{"a":"é","n":5,"z":0.000001},"name":"change"' in lines.read_text().splitlines()[-1]
        assert refusal(await lab.change(helper, token, arguments)) == "operation_token_used"


# Who may issue them.


async def test_no_agent_issues_itself_a_token_whatever_it_holds(
    lab: OperationLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, sid, _ = await ready(lab)
    why: list[str] = []
    authenticate = Minters.authenticate

    async def noted(self: Minters, *request: Any) -> Minter:
        try:
            return await authenticate(self, *request)
        except GateError as error:
            if error.code is ErrorCode.MINT_REFUSED:
                why.append(error.debug)
            raise

    monkeypatch.setattr(Minters, "authenticate", noted)
    worker = await lab.stack.http.post(
        f"{lab.url}/token",
        data={"grant_type": "client_credentials", "resource": f"{lab.url}/operations"},
        auth=("worker", SECRET),
    )
    assert worker.json()["error"] == "invalid_target"
    operations = f"{lab.url}/operations"
    ghost = msgspec.structs.replace(lab.alice, subject="ghost")
    held = {
        "its own token": (helper, "audience_mismatch"),
        "another issuer's token": (lab.issuer.token(operations), "invalid_token"),
        "an agent client's": (await lab.access("worker", lab.alice), "mint_refused"),
        "a public client's": (await lab.access("app", lab.alice, agent="public-client"), "mint_refused"),
        "an exchanged one": (await lab.host(act={"sub": "worker"}), "mint_refused"),
        "with a second audience": (await lab.host(aud=[operations, lab.stack.resource()]), "audience_mismatch"),
        "for sessions": (
            await lab.access("desk", lab.alice, agent="helper", resource="/sessions"),
            "audience_mismatch",
        ),
        "bound to a key that is not proven": (await lab.host(cnf={"jkt": "A" * 43}), "invalid_token"),
        "a host's without a person": (await lab.access("desk", agent="helper"), "mint_refused"),
        "a client that is gone": (await lab.access("nobody", lab.alice), "mint_refused"),
        "a person who is gone": (await lab.host(ghost), "invalid_token"),
        "another tenant's": (await lab.host(tenant="globex"), "mint_refused"),
        "an authorizer with a person": (await lab.access("gate", lab.alice), "mint_refused"),
        "nothing": (None, "credential_missing"),
    }
    for name, (token, reason) in held.items():
        answer = await lab.ask(token, sid)
        assert (name, refusal(answer)) == (name, reason)
        assert "operation_token" not in answer.json()
    kinds = [event["kind"] for event in lab.stack.events()]
    assert kinds.count("operation.issued") == 1
    reasons = {event["reason"] for event in lab.stack.events() if event.get("detail", "").startswith("operations:")}
    assert reasons >= {"mint_refused", "issuer_unknown", "audience_mismatch"}
    # Each by its own check, whatever else would have caught it.
    assert why == [
        "a client of kind agent (configured)",
        "a client of kind public (configured)",
        "a token from an exchange",
        "a host without a person",
        "the token's client is gone, or of another tenant",
        "the token's client is gone, or of another tenant",
        "an authorizer with a person, or an agent",
    ]


async def test_a_host_that_is_bound_to_an_agent_is_no_minter(lab: OperationLab) -> None:
    _, sid, _ = await ready(lab)
    state, binding = lab.stack.state, Binding(Method.JWT, lab.url, "desk")
    await state.registry_store.add_agent(Agent(AgentId("acme", "sly"), "executor", ("edit",)), [binding], 0)
    await state.revision.read()
    assert refusal(await lab.ask(await lab.host(), sid)) == "mint_refused"
    assert lab.last_refusal()["detail"] == "operations: the client is bound to the agent acme/sly"
    assert lab.ran == []


async def test_an_exchanged_token_is_never_for_operations(lab: OperationLab) -> None:
    helper, sid, _ = await ready(lab)
    answer = await lab.stack.http.post(
        f"{lab.url}/token",
        data={
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": await lab.host(),
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "resource": f"{lab.url}/operations",
        },
        auth=("worker", SECRET),
    )
    assert answer.status_code == 400
    assert refusal(await lab.ask(helper, sid)) == "audience_mismatch"


async def test_a_host_issues_for_its_own_person_and_an_authorizer_for_its_lists(lab: OperationLab) -> None:
    helper, alices, _ = await ready(lab)
    robot = lab.robot()
    robots, bobs = await lab.sid(robot), await lab.sid(await lab.helper(lab.bob))
    others = lab.issuer.token(lab.stack.resource(), sub="other")
    others_sid = await lab.sid(others, "report")
    for token, sid, tool in (
        (await lab.host(), bobs, "files.change"),
        (await lab.host(), robots, "files.change"),
        (await lab.host(), "no-such-session", "files.change"),
        (await lab.host(), alices, "files.wipe"),
        (await lab.host(), alices, "notes.look"),
        (await lab.host(), alices, "files.no-such-tool"),
        (await lab.access("foreign", await lab.person("eve", "globex"), tenant="globex", agent="public-client"),
         alices, "files.change"),
        (await lab.authorizer(), alices, "files.change"),
        (await lab.authorizer(), others_sid, "files.look"),
        (await lab.authorizer(), robots, "files.look"),
        (await lab.authorizer(), robots, "files.find"),
    ):  # fmt: skip
        answer = await lab.ask(token, sid, tool)
        assert (answer.status_code, refusal(answer)) == (403, "mint_refused"), (sid, tool)
        recorded = lab.last_refusal()
        assert (recorded["kind"], recorded["anomaly"]) == ("operation.refused", True)
    # Another tenant's minter is told of no session, before it is asked whose that is.
    details = [event["detail"] for event in lab.stack.events() if event["kind"] == "operation.refused"]
    assert details.count("no such session of this tenant") == 2
    # What the person may not do, the person's host cannot allow.
    reader = await lab.person("carol", role="reader")
    assert refusal(await lab.ask(await lab.host(reader), await lab.sid(await lab.helper(reader)))) == "mint_refused"
    assert lab.last_refusal()["detail"].endswith("user_not_permitted")
    # A session that has ended is told to whom it belongs only.
    await lab.stack.state.sessions.end(alices, int(time.time()))
    assert refusal(await lab.ask(await lab.host(), alices)) == "session_ended"
    assert refusal(await lab.ask(await lab.host(lab.bob), alices)) == "mint_refused"
    assert (await lab.change(helper, None)).status_code == 403
    assert lab.ran == []


async def test_a_body_says_one_call_and_nothing_twice(lab: OperationLab) -> None:
    _, sid, _ = await ready(lab)
    host = await lab.host()
    wrong: tuple[dict[str, Any], ...] = (
        {"digest": "0" * 64},
        {"params": {"_meta": {}}},
        {"params": {"arguments": {}}},
        {"params": {"requestState": "x"}},
        {"params": {"name": "wipe"}},
        {"method": "resources/read"},
        {"method": "tasks/cancel"},
        {"arguments": [1]},
        {"input_responses": []},
        {"sid": 7},
        {"tool": "files." + "x" * 5000},
    )
    for body in wrong:
        answer = await lab.ask(host, **{"sid": sid, **body})
        assert (answer.status_code, refusal(answer)) == (400, "invalid_params"), body
    sent = {"authorization": f"Bearer {host}"}
    url = f"{lab.url}/operations/tokens"
    assert (await lab.stack.http.post(url, content=b"{}", headers=sent)).status_code == 415
    assert (await lab.stack.http.get(url, headers=sent)).status_code == 405
    assert (await lab.stack.http.post(f"{url}?access_token=x", json={}, headers=sent)).status_code == 400


async def test_whoever_is_cut_off_takes_the_tokens_along(lab: OperationLab) -> None:
    helper, sid, by_host = await ready(lab)
    robot = lab.robot()
    by_gate = await lab.mint(await lab.authorizer(), await lab.sid(robot))
    revocations, now = Revocations(SqlRevocationStore(lab.stack.state.engine)), int(time.time())
    host, gate = await lab.host(), await lab.authorizer()
    await revocations.revoke("client", "gate", now + 600, now)
    await refused(lab, robot, by_gate, "operation_token_invalid")
    assert (await lab.ask(gate, sid)).status_code == 401
    await revocations.revoke("token", claims_of(by_host)["jti"], now + 600, now)
    await refused(lab, helper, by_host, "operation_token_invalid")
    again = await lab.mint(host, sid)
    await revocations.revoke("user", lab.alice.subject, now + 600, now)
    assert (await lab.change(helper, again)).status_code == 401
    assert (await lab.ask(host, sid)).status_code == 401
    assert lab.ran == []


# What does not use a token up, and what does.


async def test_a_call_that_is_refused_for_its_rate_uses_nothing_up(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # The session's first call takes the one that there is.
    limits = {"agent": {"rate": 1, "burst": 1}}
    async with open_operation_lab(tmp_path, issuer, upstream, limits=limits) as lab:
        helper, _, good = await ready(lab)
        assert refusal(await lab.change(helper, good)) == "rate_limited"
        assert lab.ran == []
        deadline = time.monotonic() + 10
        while (answer := await lab.change(helper, good)).status_code == 429:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert answer.status_code == 200


async def test_a_server_that_cannot_be_reached_uses_nothing_up_and_one_that_breaks_off_does(
    lab: OperationLab, upstream: RecordingUpstream
) -> None:
    helper, _, good = await ready(lab)
    port = int(upstream.url.rpartition(":")[2].partition("/")[0])
    await upstream.__aexit__()
    assert refusal_of_any(await lab.change(helper, good)) == "upstream_unavailable"
    upstream._server = await asyncio.start_server(upstream._serve, "127.0.0.1", port)
    upstream.raw_answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{"
    assert refusal_of_any(await lab.change(helper, good)) == "upstream_invalid"
    assert lab.ran == ["change"]
    upstream.raw_answer = None
    await refused(lab, helper, good, "operation_token_used")


async def test_without_the_audit_trail_nothing_runs_and_the_token_is_good_afterwards(
    lab: OperationLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, sid, good = await ready(lab)
    audit = lab.stack.state.audit
    append = audit.append

    async def broken(event: Any) -> None:
        if event.kind in (EventKind.CALL_INTENT, EventKind.OPERATION_ISSUED):
            raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")
        await append(event)

    monkeypatch.setattr(audit, "append", broken)
    assert refusal(await lab.change(helper, good)) == "unavailable"
    assert lab.ran == []
    answer = await lab.ask(await lab.host(), sid)
    assert refusal(answer) == "unavailable"
    monkeypatch.undo()
    assert (await lab.change(helper, good)).status_code == 200
    assert lab.ran == ["change"]


async def test_without_the_store_nothing_runs(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    async with writing(lab.stack.state.engine) as connection:
        await connection.execute(text("ALTER TABLE operations RENAME TO gone"))
    answer = await lab.change(helper, good)
    assert (answer.status_code, refusal(answer)) == (503, "unavailable")
    assert lab.ran == []
    async with writing(lab.stack.state.engine) as connection:
        await connection.execute(text("ALTER TABLE gone RENAME TO operations"))
    assert (await lab.change(helper, good)).status_code == 200


async def test_a_client_that_goes_away_leaves_a_used_token(lab: OperationLab) -> None:
    helper, _, good = await ready(lab)
    lab.upstream.raw_answer = b""  # it says nothing
    call = asyncio.create_task(lab.change(helper, good))
    deadline = time.monotonic() + 10
    while not lab.ran:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    call.cancel()
    while not any(event.get("outcome") == "aborted" for event in lab.stack.events()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    lab.upstream.raw_answer = None
    await refused(lab, helper, good, "operation_token_used")
    assert lab.ran == ["change"]


# Sessions that minters may know of.


async def test_a_host_learns_of_its_persons_sessions_and_an_agent_of_its_own(lab: OperationLab) -> None:
    _, alices, _ = await ready(lab)
    await lab.sid(await lab.helper(lab.bob))
    robots = await lab.sid(lab.robot())

    async def listed(token: str) -> list[str]:
        answer = await lab.stack.http.get(f"{lab.url}/sessions", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return [session["session"] for session in answer.json()["sessions"]]

    host = await lab.access("desk", lab.alice, agent="helper", resource="/sessions")
    app = await lab.access("app", lab.alice, agent="public-client", resource="/sessions")
    assert await listed(host) == [alices]
    assert await listed(app) == []
    assert await listed(lab.issuer.token(f"{lab.url}/sessions")) == [robots]
    await lab.stack.state.sessions.end(alices, int(time.time()))
    assert await listed(host) == []
    refusals = await lab.stack.http.get(f"{lab.url}/sessions", headers={"authorization": f"Bearer {await lab.host()}"})
    assert refusals.status_code == 401


def answered(result: Any) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def refusal_of_any(answer: Any) -> str:
    reason: str = answer.json()["error"]["data"]["reason"]
    return reason


async def test_what_a_person_signed_for_at_the_console_runs_once_and_not_after_they_are_locked_out(
    lab: OperationLab,
) -> None:
    helper = await lab.helper()
    sid = await lab.sid(helper)
    minted = claims_of(await lab.mint(await lab.host(), sid))
    # The console's tokens name the person, and are of the same making otherwise.
    first, second = [
        await lab.signed({**minted, "minter": "acme/alice", "jti": f"console-{number}"}) for number in range(2)
    ]
    assert (await lab.change(helper, first)).status_code == 200
    assert refusal(await lab.change(helper, first)) == "operation_token_used"
    assert await SqlUserStore(lab.stack.state.engine).disable("acme", lab.alice.subject, 2**31, 0)
    assert (await lab.change(helper, second)).status_code in {401, 403}
    assert lab.ran == ["change"]
