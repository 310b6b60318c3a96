"""One tenant's credentials against everything of another's: servers, tools, roles, tasks, sessions, tokens, people.

Every way is tried from acme to globex; what is globex's never sees a byte of it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey
from typer.testing import CliRunner, Result

from authlab import AuthLab, open_auth_lab
from devicelab import LoggedIn, open_device_lab
from harness.issuer import TestIssuer, sign
from harness.stack import tool_call
from tenantlab import ACME, COMMON, GLOBEX, MODERN, SECRETS, SERVER, TenantLab, tenant_lab
from twogate.cli.main import app
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.resource import server_path
from twogate.core.principal import AgentId
from twogate.core.protocol import _METHODS, HANDSHAKE_VERSIONS, VERSIONS
from twogate.web import legacy

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
"""Of RFC 7636 appendix B."""
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"

PARAMS: dict[str, Any] = {
    "tools/call": {"name": "look", "arguments": {}},
    "resources/read": {"uri": "mem://own/a"},
    "resources/subscribe": {"uri": "mem://own/a"},
    "resources/unsubscribe": {"uri": "mem://own/a"},
    "prompts/get": {"name": "p"},
    "completion/complete": {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}},
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    "subscriptions/listen": {"notifications": {"toolsListChanged": True}},
    "logging/setLevel": {"level": "info"},
    "notifications/progress": {"progressToken": 1, "progress": 1},
    "notifications/cancelled": {"requestId": 1},
    **{name: {"taskId": "t"} for name in ("tasks/get", "tasks/result", "tasks/cancel", "tasks/update")},
}
EVERY_METHOD = [(version, method) for version in VERSIONS for method in _METHODS[version]]


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[TenantLab]:
    async with tenant_lab(tmp_path, issuer) as made:
        yield made


def reason(answer: httpx2.Response) -> str:
    found: str = answer.json()["error"]["data"]["reason"]
    return found


async def opened(lab: TenantLab, token: str, server: str) -> str:
    """An MCP session of a handshake client."""
    answer = await lab.send(token, server, "initialize", PARAMS["initialize"], HANDSHAKE_VERSIONS[-1])
    assert answer.status_code == 200, answer.text
    return str(answer.headers["mcp-session-id"])


# -- Servers


async def test_no_method_of_any_version_reaches_a_server_of_another_tenant(lab: TenantLab) -> None:
    refused = Counter[str]()
    for user in (None, "alice"):
        claims = {} if user is None else {"user": user, "role": "filer"}
        token = lab.token(ACME, "notes", **claims)
        for version, method in EVERY_METHOD:
            answer = await lab.send(token, "notes", method, PARAMS.get(method), version)
            # A notification has no answer to put a reason into, and a task's id of nobody is refused first.
            assert answer.status_code in (400, 403, 404), (version, method, answer.text)
            refused[lab.stack.reasons()[-1]] += 1
        for http_method in ("GET", "DELETE"):
            answer = await lab.stack.http.request(
                http_method,
                lab.stack.resource("notes"),
                headers={"authorization": f"Bearer {token}", "accept": "text/event-stream"},
            )
            assert answer.status_code in (403, 405), answer.text
        answer = await lab.stack.http.get(
            f"{lab.stack.resource('notes')}/sse", headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 403
    assert refused["tenant_server_refused"] > 60
    assert set(refused) <= {"tenant_server_refused", "invalid_params", "task_handle_unknown", "mcp_task_unknown"}
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}


async def test_messages_of_one_tenants_old_stream_cannot_be_posted_by_another(lab: TenantLab) -> None:
    mine, theirs = lab.token(GLOBEX, COMMON), lab.token(ACME, COMMON)
    headers = {"authorization": f"Bearer {mine}", "accept": "text/event-stream"}
    async with lab.stack.http.stream("GET", f"{lab.stack.resource(COMMON)}/sse", headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        endpoint = ""
        while not endpoint.startswith("data: "):
            endpoint = await anext(lines)
        answer = await lab.stack.http.post(
            lab.stack.url + endpoint.removeprefix("data: "),
            content=json.dumps(tool_call("look")),
            headers={"authorization": f"Bearer {theirs}", "content-type": "application/json"},
        )
        assert answer.status_code in (403, 404)
    assert all(SECRETS[ACME, COMMON] not in str(seen.headers) for seen in lab.seen(COMMON))
    assert [seen for seen in lab.seen(COMMON) if seen.body] == []


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
@pytest.mark.parametrize("method", ["notifications/cancelled", "notifications/progress"])
async def test_a_request_is_not_cancelled_by_who_knows_its_id(lab: TenantLab, method: str, version: str) -> None:
    mine, theirs = lab.token(ACME, COMMON), lab.token(GLOBEX, COMMON)
    assert (await lab.send(theirs, COMMON, "tools/call", PARAMS["tools/call"], version)).status_code == 200
    before = len(lab.seen(COMMON))
    # The server keeps no session for either, so nothing but the id would tell it whose request is meant.
    answer = await lab.send(mine, COMMON, method, PARAMS[method], version)
    assert answer.status_code == (404 if (method, version) == ("notifications/progress", MODERN) else 202)
    assert len(lab.seen(COMMON)) == before


async def test_a_cancel_within_a_session_goes_there_and_comes_from_its_owner_only(lab: TenantLab) -> None:
    version, params = HANDSHAKE_VERSIONS[-1], PARAMS["notifications/cancelled"]
    mine, theirs = lab.token(ACME, COMMON), lab.token(GLOBEX, COMMON)
    handle = await opened(lab, theirs, COMMON)
    before = len(lab.seen(COMMON))
    answer = await lab.send(mine, COMMON, "notifications/cancelled", params, version, mcp_session_id=handle)
    assert (answer.status_code, len(lab.seen(COMMON))) == (404, before)
    answer = await lab.send(theirs, COMMON, "notifications/cancelled", params, version, mcp_session_id=handle)
    (seen,) = lab.seen(COMMON)[before:]
    assert (answer.status_code, seen.message["params"]) == (202, params)
    assert seen.headers["mcp-session-id"] not in ("", handle)


async def test_a_tenant_at_its_cap_of_old_streams_leaves_another_its_own(
    lab: TenantLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy, "MAX_STREAMS", 4)
    monkeypatch.setattr(legacy, "MAX_STREAMS_PER_PRINCIPAL", 1)
    async with AsyncExitStack() as held:

        async def opens(token: str) -> int:
            request = lab.stack.http.stream(
                "GET",
                f"{lab.stack.resource(COMMON)}/sse",
                headers={"authorization": f"Bearer {token}", "accept": "text/event-stream"},
            )
            return (await held.enter_async_context(request)).status_code

        mine = [lab.user_token(ACME, COMMON, user) for user in ("ann", "ben", "cem", "dan")]
        assert [await opens(token) for token in mine] == [200, 200, 429, 429]
        theirs = [lab.user_token(GLOBEX, COMMON, user) for user in ("ann", "ben", "cem")]
        assert [await opens(token) for token in theirs] == [200, 200, 429]
    assert [seen for seen in lab.seen(COMMON) if seen.body] == []


# -- Tools, roles, tasks


async def test_what_is_one_tenants_own_is_nothing_to_another_at_a_server_of_both(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    async with tenant_lab(tmp_path, issuer) as lab:
        settings = json.loads((tmp_path / "twogate.yaml").read_text())
        # Both reach `common`; only globex has classified `find` there, and lets its task have it.
        settings["tenants"][GLOBEX]["tools"][f"{COMMON}.find"] = {"class": "search"}
        settings["tenants"][GLOBEX]["roles"]["noter"]["allow"].append("search")
        settings["tenants"][GLOBEX]["tasks"]["noting"]["tools"].append("search")
        settings["tenants"][ACME]["roles"]["filer"]["allow"].append("search")
        settings["tenants"][ACME]["tasks"]["filing"]["tools"].append("search")
        lab.stack.adopt(settings)
        assert (await lab.call(lab.token(GLOBEX, COMMON), "find", COMMON)).status_code == 200
        refused = await lab.call(lab.token(ACME, COMMON), "find", COMMON)
        assert (refused.status_code, reason(refused)) == (403, "not_permitted")
        assert lab.stack.reasons() == ["target_unclassified"]
        for tenant, names in ((ACME, ["look"]), (GLOBEX, ["look", "find"])):
            for version in ("2025-11-25", MODERN):
                listed = await lab.send(lab.token(tenant, COMMON), COMMON, "tools/list", version=version)
                assert [tool["name"] for tool in listed.json()["result"]["tools"]] == names
        assert lab.servers[COMMON].calls == ["find"]


@pytest.mark.parametrize("how", ["header", "sessions"])
async def test_another_tenants_task_is_no_task(lab: TenantLab, how: str) -> None:
    before = lab.quiet()
    if how == "header":
        answer = await lab.call(lab.token(ACME, "files"), "look", "files", twogate_task="noting")
        assert answer.status_code == 403
    else:
        token = lab.issuer.token(f"{lab.stack.url}/sessions", azp="acme-robot", tenant=ACME)
        answer = await lab.stack.http.post(
            f"{lab.stack.url}/sessions", json={"task": "noting"}, headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 403
    assert set(lab.stack.reasons()) == {"task_unknown"}
    assert lab.quiet() == before


async def test_another_tenants_role_grants_its_bearer_nothing(lab: TenantLab) -> None:
    # The issuer may assert both roles; each means something in its own tenant only.
    good = await lab.call(lab.user_token(ACME, "files", "alice"), "find", "files")
    assert good.status_code == 200
    lab.seen("files").clear()
    for tool in ("look", "find"):
        refused = await lab.call(lab.user_token(ACME, "files", "alice", role="noter"), tool, "files")
        assert (refused.status_code, reason(refused)) == (403, "not_permitted")
    assert lab.stack.reasons() == ["user_not_permitted"] * 2
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}


async def test_two_tenants_may_give_one_name_to_different_things(tmp_path: Path, issuer: TestIssuer) -> None:
    async with tenant_lab(tmp_path, issuer) as lab:
        settings = json.loads((tmp_path / "twogate.yaml").read_text())
        for tenant, allowed in ((ACME, ["read"]), (GLOBEX, ["read", "search"])):
            of_tenant = settings["tenants"][tenant]
            of_tenant["roles"] = {"own": {"allow": allowed}}
            of_tenant["tasks"] = {"daily": {"tools": ["read", "search"]}}
            of_tenant["tools"] = {f"{COMMON}.find": {"class": "search"}}
            for agent in ("robot", "public-client"):
                entry = settings["agents"][f"{tenant}/{agent}"]
                entry |= {"role": "own", "tasks": ["daily"]}
                entry |= {"default_task": "daily"} if agent == "robot" else {}
        settings["issuers"][0]["roles"] = ["own"]
        lab.stack.adopt(settings)
        assert (await lab.call(lab.token(ACME, COMMON), "find", COMMON)).status_code == 403
        assert (await lab.call(lab.token(GLOBEX, COMMON), "find", COMMON)).status_code == 200
        assert lab.stack.reasons() == ["role_not_permitted"]
        assert [seen.headers["authorization"] for seen in lab.seen(COMMON)] == [f"Bearer {SECRETS[GLOBEX, COMMON]}"]


# -- Credentials


async def test_a_forged_tenant_claim_makes_nobody_somebody_elses_agent(lab: TenantLab) -> None:
    resource = lab.stack.resource("notes")
    claims = lab.issuer.claims(resource, azp="acme-robot", tenant=GLOBEX)
    forged = sign({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}, claims, ECKey.generate_key("P-256"), "ES256")
    for token, why in (
        (lab.token(ACME, "notes", tenant=GLOBEX), "agent_unbound"),
        (lab.token(ACME, "notes", tenant=GLOBEX.upper()), "tenant_refused"),
        (lab.token(ACME, "notes", tenant=[ACME, GLOBEX]), "claim_invalid"),
        (lab.token(ACME, "notes", tenant=None), "tenant_refused"),
        (lab.token(GLOBEX, "notes", tenant=ACME), "agent_unbound"),
        (forged, "signature_invalid"),
    ):
        answer = await lab.call(token, "look", "notes")
        assert answer.status_code == 401, why
        # Repeated refusals of one address are counted together.
        assert why in lab.stack.reasons()
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}


async def test_a_token_for_one_tenants_server_is_none_at_anothers_with_warm_caches(lab: TenantLab) -> None:
    for tenant, server in SERVER.items():
        assert (
            await lab.send(lab.token(tenant, server), server, "tools/call", PARAMS["tools/call"])
        ).status_code == 200
    before = lab.quiet()
    mine = lab.token(ACME, "files")
    assert (await lab.call(mine, "look", "files")).status_code == 200
    assert (await lab.call(mine, "look", "notes")).status_code == 401
    assert lab.stack.reasons() == ["audience_mismatch"]
    assert lab.quiet() == {**before, "files": before["files"] + 1}


# -- Sessions and handles


async def test_no_session_of_one_tenant_is_one_of_another(lab: TenantLab) -> None:
    sessions = {}
    for tenant in (ACME, GLOBEX):
        token = lab.issuer.token(f"{lab.stack.url}/sessions", azp=f"{tenant}-robot", tenant=tenant)
        answer = await lab.stack.http.post(
            f"{lab.stack.url}/sessions", json={"task": "report"}, headers={"authorization": f"Bearer {token}"}
        )
        sessions[tenant] = answer.json()["session"]
    assert sessions[ACME] != sessions[GLOBEX]
    stolen = sessions[GLOBEX]
    for token, headers in (
        (lab.token(ACME, COMMON), {"twogate_session": stolen}),
        (lab.token(ACME, COMMON, sid=stolen), {}),
        (lab.token(ACME, COMMON), {"twogate_session": stolen, "twogate_task": "report"}),
    ):
        answer = await lab.call(token, "look", COMMON, **headers)
        assert (answer.status_code, lab.stack.reasons()[-1]) == (403, "session_mismatch")
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}


@pytest.mark.parametrize("who", ["tenant", "user", "nobody"])
async def test_an_upstream_session_serves_the_one_who_opened_it(lab: TenantLab, who: str) -> None:
    # DESIGN decision 13: not another tenant, and not another user of the same agent either.
    owner = lab.user_token(GLOBEX, COMMON, "alice")
    thief = {
        "tenant": lab.user_token(ACME, COMMON, "alice"),
        "user": lab.user_token(GLOBEX, COMMON, "bob"),
        "nobody": lab.token(GLOBEX, COMMON),
    }[who]
    session = await opened(lab, owner, COMMON)
    await opened(lab, thief, COMMON)
    before = lab.quiet()
    for http_method in ("POST", "GET", "DELETE"):
        answer = await lab.stack.http.request(
            http_method,
            lab.stack.resource(COMMON),
            headers={
                "authorization": f"Bearer {thief}", "mcp-session-id": session, "content-type": "application/json",
                "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25",
            },
            content=json.dumps(tool_call("look")) if http_method == "POST" else b"",
        )  # fmt: skip
        assert (answer.status_code, reason(answer)) == (404, "mcp_session_unknown")
    assert lab.quiet() == before


async def test_events_tasks_and_states_of_one_tenant_are_unknown_to_another(lab: TenantLab) -> None:
    mine, theirs = lab.token(GLOBEX, COMMON), lab.token(ACME, COMMON)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
    event = f"id: e-7\nevent: message\ndata: {body}\n\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(event)}\r\n\r\n".encode()
    lab.servers[COMMON].raw_answer = head + event
    answer = await lab.call(mine, "look", COMMON)
    (last,) = (line[4:] for line in answer.text.split("\n") if line.startswith("id: "))
    lab.servers[COMMON].raw_answer = None
    task = {"taskId": "t-7", "status": "working", "createdAt": "2026-01-01T00:00:00Z", "ttl": 1000}
    lab.servers[COMMON].extra["tools/call"] = {"task": task}
    made = await lab.call(mine, "look", COMMON)
    stolen = made.json()["result"]["task"]["taskId"]
    assert "t-7" not in made.text
    before = lab.quiet()
    resumed = await lab.stack.http.get(
        lab.stack.resource(COMMON),
        headers={"authorization": f"Bearer {theirs}", "accept": "text/event-stream", "last-event-id": last},
    )
    assert (resumed.status_code, reason(resumed)) == (400, "event_unknown")
    for version, method in (("2025-11-25", "tasks/get"), ("2025-11-25", "tasks/result"), ("2025-11-25", "tasks/cancel"),
                            (MODERN, "tasks/get"), (MODERN, "tasks/update"), (MODERN, "tasks/cancel")):  # fmt: skip
        answer = await lab.send(theirs, COMMON, method, {"taskId": stolen}, version)
        assert answer.status_code in (400, 403, 404), answer.text
    state = await lab.send(theirs, COMMON, "tools/call", {**PARAMS["tools/call"], "requestState": stolen})
    assert state.status_code in (400, 403, 404)
    assert lab.quiet() == before


# -- What is kept and counted


async def test_what_servers_say_of_their_tools_is_kept_for_each_tenant(lab: TenantLab) -> None:
    # A modern call makes the gateway ask for the tools, in the tenant's name and with its secret.
    for _ in range(2):
        for tenant in (ACME, GLOBEX):
            answer = await lab.send(lab.token(tenant, COMMON), COMMON, "tools/call", PARAMS["tools/call"])
            assert answer.status_code == 200, answer.text
    lists = [seen for seen in lab.seen(COMMON) if seen.body and seen.message["method"] == "tools/list"]
    assert sorted(seen.headers["authorization"] for seen in lists) == sorted(
        f"Bearer {SECRETS[tenant, COMMON]}" for tenant in (ACME, GLOBEX)
    )


async def test_a_tenant_that_uses_its_calls_up_takes_none_of_anothers(tmp_path: Path, issuer: TestIssuer) -> None:
    async with tenant_lab(tmp_path, issuer) as lab:
        settings = json.loads((tmp_path / "twogate.yaml").read_text())
        settings["limits"] = {"tenant": {"rate": 1, "burst": 2}}
        lab.stack.adopt(settings)
        mine, theirs = lab.token(ACME, COMMON), lab.token(GLOBEX, COMMON)
        spent = [(await lab.call(mine, "look", COMMON)).status_code for _ in range(4)]
        assert spent[:2] == [200, 200]
        assert 429 in spent
        assert (await lab.call(theirs, "look", COMMON)).status_code == 200


async def test_each_server_saw_its_own_tenants_secret_and_no_other(lab: TenantLab) -> None:
    for tenant, server in SERVER.items():
        for version in ("2025-11-25", MODERN):
            for where in (server, COMMON):
                token = lab.user_token(tenant, where, "alice")
                answer = await lab.send(token, where, "tools/call", PARAMS["tools/call"], version)
                assert answer.status_code == 200, answer.text
    presented = {
        name: {seen.headers.get("authorization") or seen.headers["private-token"] for seen in server.seen}
        for name, server in lab.servers.items()
    }
    assert presented == {
        "files": {f"Bearer {SECRETS[ACME, 'files']}"},
        "notes": {SECRETS[GLOBEX, "notes"]},
        COMMON: {f"Bearer {SECRETS[ACME, COMMON]}", f"Bearer {SECRETS[GLOBEX, COMMON]}"},
    }


# -- The authorization server


async def test_a_tenants_client_learns_and_changes_nothing_of_anothers_tokens(lab: TenantLab) -> None:
    theirs = await lab.own_token(GLOBEX)
    asked = await lab.form("/introspect", ACME, token=theirs)
    assert asked.json() == {"active": False}
    revoked = await lab.form("/revoke", ACME, token=theirs)
    assert revoked.status_code in (200, 400)
    exchanged = await lab.form(
        "/token", ACME, grant_type=EXCHANGE, subject_token=theirs, subject_token_type=ACCESS_TOKEN,
        resource=lab.stack.resource("files"),
    )  # fmt: skip
    assert exchanged.status_code == 400
    assert (await lab.call(theirs, "look", "files")).status_code == 401
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}
    assert (await lab.call(theirs, "look", "notes")).status_code == 200, "it was revoked by a stranger"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/token", {"grant_type": "client_credentials"}),
        ("/token", {"grant_type": "client_credentials", "tenant": GLOBEX}),
        ("/par", {"response_type": "code", "client_id": "acme.cli", "redirect_uri": "https://acme.example/cb",
                  "code_challenge": CHALLENGE, "code_challenge_method": "S256"}),
        ("/device_authorization", {"client_id": "acme.cli"}),
    ],
)  # fmt: skip
async def test_a_tenants_clients_ask_in_vain_for_anothers_resources(
    lab: TenantLab, path: str, fields: dict[str, str]
) -> None:
    public = "client_id" in fields
    answer = await lab.form(path, None if public else ACME, **fields, resource=lab.stack.resource("notes"))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target"), answer.text
    if "tenant" not in fields:
        good = await lab.form(path, None if public else ACME, **fields, resource=lab.stack.resource("files"))
        assert good.status_code in (200, 201), good.text


async def test_a_task_of_another_tenant_is_no_detail_of_an_authorization(lab: TenantLab) -> None:
    for task, status in (("filing", 200), ("noting", 403)):
        answer = await lab.form(
            "/token", ACME, grant_type="client_credentials", resource=lab.stack.resource("files"),
            authorization_details=json.dumps([{"type": "mcp_session", "task": task}]),
        )  # fmt: skip
        assert answer.status_code == status, answer.text


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncIterator[AuthLab]:
    async with open_auth_lab(tmp_path) as made:
        yield made


async def test_a_person_of_another_tenant_cannot_consent_for_a_client(auth: AuthLab) -> None:
    await auth.log_in(auth.carol)
    answer = await auth.authorize("web")
    # Carol is logged in, at globex; acme's client is shown the way to acme's login, and no consent.
    assert answer.status_code == 303
    assert "/login" in answer.headers["location"]
    assert "code=" not in answer.headers["location"]


async def test_a_person_of_another_tenant_cannot_decide_on_a_device(tmp_path: Path) -> None:
    async with open_device_lab(tmp_path) as lab:
        begun = await lab.begun()
        with pytest.raises(GateError) as caught:
            await lab.decide(begun["user_code"], login=LoggedIn(tenant=GLOBEX))
        assert caught.value.code is ErrorCode.LOGIN_REQUIRED
        assert await lab.polled(begun["device_code"]) == "authorization_pending"


# -- Operators' views


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--json"])


async def test_the_trail_of_one_tenant_holds_nothing_of_another(lab: TenantLab) -> None:
    for tenant, server in SERVER.items():
        await lab.call(lab.user_token(tenant, server, f"user-of-{tenant}"), "look", server)
        await lab.call(lab.user_token(tenant, COMMON, f"user-of-{tenant}"), "unlisted", COMMON)
    await lab.call(lab.token(ACME, "notes"), "look", "notes")
    config = lab.stack.directory / "twogate.yaml"
    shown = await asyncio.to_thread(run, "audit", "tail", "--tenant", ACME, "-n", "1000", "--config", config)
    assert shown.exit_code == 0
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {event["tenant"] for event in events} == {ACME}
    assert "call.intent" in {event["kind"] for event in events}
    assert "globex" not in shown.stdout
    everybody = lab.stack.events()
    assert {GLOBEX, ACME} <= {event.get("tenant") for event in everybody}


async def test_explaining_a_call_goes_by_its_agents_tenant(lab: TenantLab) -> None:
    config = lab.stack.directory / "twogate.yaml"

    async def explained(tenant: str, tool: str, *more: str) -> Any:
        asked: tuple[str | Path, ...] = (
            "explain",
            "--agent",
            f"{tenant}/robot",
            "--tool",
            tool,
            *more,
            "--config",
            config,
        )
        done = await asyncio.to_thread(run, *asked)
        return json.loads(done.stdout)

    assert (await explained(ACME, "files.find"))["decision"] == "allow"
    assert (await explained(GLOBEX, "files.find"))["reason"] == "tenant_server_refused"
    assert (await explained(GLOBEX, "notes.find"))["decision"] == "allow"
    assert (await explained(ACME, "notes.find", "--task", "noting"))["reason"] == "task_unknown"
    assert (await explained(ACME, "files.find", "--user-role", "noter"))["reason"] == "user_not_permitted"


async def test_an_agent_cannot_be_added_with_another_tenants_role_or_task(lab: TenantLab) -> None:
    config = lab.stack.directory / "twogate.yaml"
    for role, task, ok in (("filer", "filing", True), ("noter", "filing", False), ("filer", "noting", False)):
        name = f"{ACME}/added-{role}-{task}"
        done = await asyncio.to_thread(run, "agent", "add", name, "--role", role, "--task", task, "--config", config)
        assert (done.exit_code == 0) is ok, done.stdout
        if not ok:
            assert "noter" not in done.stdout.partition("must")[2]
    view = await lab.stack.state.registry_store.load()
    assert AgentId(ACME, "added-filer-filing") in view.agents
    assert AgentId(ACME, "added-noter-filing") not in view.agents


def test_the_table_of_methods_is_tried_as_a_whole() -> None:
    assert {version for version, _ in EVERY_METHOD} == set(VERSIONS)
    assert all(server_path(server) for server in SERVER.values())
    named = {"notifications/initialized", "notifications/roots/list_changed", "ping", "server/discover", "tasks/list"}
    lists = {"tools/list", "prompts/list", "resources/list", "resources/templates/list"}
    assert {method for _, method in EVERY_METHOD} == set(PARAMS) | named | lists
