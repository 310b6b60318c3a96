"""A real OpenID provider as an external issuer: its tokens pass, nothing else does, its keys change, it is down."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import processlab
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from peers.oidcprovider import LIFETIME, LOGIN, OPAQUE, OidcProvider
from twogate.adapters.clock import SystemClock
from twogate.flows.gateway.issuers import DEFAULT_MAX_AGE, REFETCH_INTERVAL, RETRY_INTERVAL

pytestmark = pytest.mark.peer

ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA", "Ed25519")


class ShiftedClock(SystemClock):
    """Unix time that tests can put forward; seconds pass by nothing else, so that the keys' age is the test's alone."""

    def __init__(self) -> None:
        self.started, self.ahead = super().monotonic(), 0.0

    def now(self) -> int:
        return super().now() + int(self.ahead)

    def now_us(self) -> int:
        return super().now_us() + int(self.ahead * 1_000_000)

    def monotonic(self) -> float:
        return self.started + self.ahead


@dataclass
class World:
    """A provider, a gateway that trusts it, and the gateway's clock."""

    provider: OidcProvider
    stack: Stack
    clock: ShiftedClock

    def token(self, client: str = "ES256", server: str = "files") -> str:
        return self.provider.token(client, self.stack.resource(server))

    async def status(self, token: str, server: str = "files") -> int:
        return (await self.stack.call(token, "look", server)).status_code


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OidcProvider]:
    """A provider that is not started yet, for a gateway on a port that is free."""
    directory, port = tmp_path / "provider", free_port()
    processlab.init(directory, {}, port=port)
    resources = [f"http://localhost:{port}/mcp/{server}" for server in ("files", "notes")]
    claims = {"tenant": "acme", "roles": ["offline_access", "executor"]}
    made = OidcProvider(directory, free_port(), resources, claims, {"user": "alice", "roles": ["staff", "reader"]})
    made.add_key("es256-1", "ES256")
    try:
        yield made
    finally:
        made.stop()


def configuration(directory: Path, provider: OidcProvider, upstreams: dict[str, str]) -> dict[str, Any]:
    """A gateway that trusts the provider, by discovery, and has one agent for its machines and one for its logins."""
    port = int(provider.resources[0].split("/")[2].rpartition(":")[2])
    settings = settings_for(directory, port, {name: {"url": url} for name, url in upstreams.items()}, None)
    settings["issuers"] = [
        {
            "issuer": provider.issuer, "ca": str(provider.ca), "algorithms": list(ALGORITHMS),
            "types": ["at+jwt", "absent"], "tenants": ["acme"], "roles": ["executor", "reader"],
            "claims": {
                "agent": "/client_id", "tenant": "/tenant", "role": "/roles", "user": "/user", "user_optional": True,
            },
        }
    ]  # fmt: skip
    settings["scopes"] = {"mcp:read": ["read", "search"]}
    settings["agents"] = {
        f"acme/{name}": {
            "role": "executor", "tasks": ["report", "edit"], "default_task": "edit",
            "bindings": [{"issuer": provider.issuer, "client_id": client} for client in clients],
        }
        for name, clients in {"robot": ALGORITHMS, "desk": (LOGIN,)}.items()
    }  # fmt: skip
    return settings


@asynccontextmanager
async def gateway(
    directory: Path, provider: OidcProvider, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> AsyncIterator[World]:
    clock = ShiftedClock()
    settings = configuration(directory, provider, {"files": upstream.url, "notes": other_upstream.url})
    async with running(directory, settings, clock) as stack:
        yield World(provider, stack, clock)


@pytest.fixture
async def world(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> AsyncIterator[World]:
    """Both running, the provider with one key for ES256."""
    provider.start()
    async with gateway(tmp_path, provider, upstream, other_upstream) as made:
        yield made


def kid_of(token: str) -> str:
    head = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return kid


async def test_its_access_tokens_pass_with_each_algorithm(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    for algorithm in ALGORITHMS[1:]:
        provider.add_key(f"{algorithm.lower()}-1", algorithm)
    provider.start()
    async with gateway(tmp_path, provider, upstream, other_upstream) as world:
        for algorithm in ALGORITHMS:
            token = world.token(algorithm)
            assert kid_of(token) == f"{algorithm.lower()}-1"
            assert await world.status(token) == 200
        assert world.stack.reasons() == []
    assert upstream.calls == ["look"] * len(ALGORITHMS)


async def test_what_is_altered_or_meant_for_something_else_is_refused(
    world: World, upstream: RecordingUpstream
) -> None:
    good = world.token()
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["roles"] = ["executor", "admin"]
    altered = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    _, id_token = world.provider.log_in(world.stack.resource())
    for token, reason in {
        f"{head}.{altered}.{signature}": "signature_invalid",
        f"{head}.{body}.{world.token().rpartition('.')[2]}": "signature_invalid",
        world.token(server="notes"): "audience_mismatch",
        world.token(OPAQUE): "token_malformed",
        id_token: "token_type_refused",
    }.items():
        assert await world.status(token) == 401
        assert world.stack.reasons()[-1] == reason
    assert upstream.seen == []
    assert await world.status(good) == 200


async def test_who_logged_in_is_the_user_with_the_roles_that_the_provider_may_give(
    world: World, upstream: RecordingUpstream
) -> None:
    access_token, _ = world.provider.log_in(world.stack.resource())
    assert await world.status(access_token) == 200
    # The agent's role, executor, would need an operation token for it; the user's, reader, forbids it.
    assert (await world.stack.call(access_token, "change")).status_code == 403
    assert world.stack.reasons() == ["user_not_permitted"]
    (outcome,) = [event for event in world.stack.events() if event["kind"] == "call.outcome"]
    assert (outcome["agent"], outcome["user"], outcome["user_issuer"]) == ("desk", "alice", world.provider.issuer)
    assert upstream.calls == ["look"]


async def test_a_new_key_is_found_and_an_old_one_is_forgotten(world: World, upstream: RecordingUpstream) -> None:
    used, spare, late = world.token(), world.token(), world.token()
    assert await world.status(used) == 200

    world.provider.add_key("es256-2", "ES256")
    world.provider.restart()
    new = world.token()
    assert (kid_of(used), kid_of(new)) == ("es256-1", "es256-2")
    # The keys were fetched a moment ago, and an unknown kid fetches them again only so often.
    assert await world.status(new) == 401
    assert world.stack.reasons() == ["key_unknown"]
    world.clock.ahead += REFETCH_INTERVAL
    assert await world.status(new) == 200
    assert await world.status(spare) == 200

    world.provider.remove_key("es256-1")
    world.provider.restart()
    world.clock.ahead += DEFAULT_MAX_AGE  # oidc-provider says nothing of how long its keys may be kept
    calls = len(upstream.calls)
    for token in (used, spare, late):
        assert await world.status(token) == 401
    assert set(world.stack.reasons()) == {"key_unknown"}
    assert len(upstream.calls) == calls
    assert await world.status(new) == 200
    assert world.clock.ahead < LIFETIME  # none of them had expired


async def test_while_it_is_down_its_keys_serve_as_long_as_they_are_fresh_and_no_longer(
    world: World, upstream: RecordingUpstream
) -> None:
    used, spare, late = world.token(), world.token(), world.token()
    assert await world.status(used) == 200
    world.provider.stop()
    assert await world.status(spare) == 200
    world.clock.ahead += DEFAULT_MAX_AGE
    for token in (late, used, spare):
        assert await world.status(token) == 503
    assert set(world.stack.reasons()) == {"keys_unavailable"}
    assert upstream.calls == ["look"] * 2
    world.provider.start()
    world.clock.ahead += RETRY_INTERVAL
    assert await world.status(late) == 200


async def test_a_real_process_waits_for_it_and_then_lets_its_tokens_in(
    tmp_path: Path, provider: OidcProvider, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> None:
    settings = configuration(tmp_path, provider, {"files": upstream.url, "notes": other_upstream.url})
    (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
    provider.start()
    token = provider.token("ES256", provider.resources[0])
    provider.stop()
    with processlab.serving(tmp_path) as process:

        async def status(token: str, server: str = "files") -> int:
            return (await asyncio.to_thread(process.call, token, server, tool_call("look"))).status_code

        assert await status(token) == 503
        assert upstream.seen == []
        provider.start()
        async with asyncio.timeout(processlab.PATIENCE):
            while (seen := await status(token)) != 200:
                assert seen == 503
                await asyncio.sleep(0.05)
        assert await status(token, "notes") == 401
        assert upstream.calls == ["look"]
        assert other_upstream.seen == []
        reasons = {event["reason"] for event in process.events() if event.get("reason")}
        assert reasons == {"keys_unavailable", "audience_mismatch"}
