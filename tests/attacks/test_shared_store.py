"""Replicas on one Valkey: limits that count over all of them, values used once anywhere, and a Valkey that fails.

Two whole gateways in this process with state directories of their own, behind one public address, and a real Valkey
that is killed, stopped, emptied and misconfigured. Whatever it does, the upstream sees nothing that was not counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dpoplab import Prover
from harness.issuer import PrivateKey, TestIssuer, new_key, sign
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from harness.valkey import Valkey, running_valkey
from processlab import cli
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.config import parse_settings
from twogate.config.shared_url import shared_address
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId
from twogate.state import open_state
from twogate.stores.shared.redis_link import COMMAND_TIMEOUT, CONNECT_TIMEOUT, PAUSE, RedisLink
from twogate.stores.shared.redis_replay import RedisReplayStore

LONGEST_WAIT = 4 * (COMMAND_TIMEOUT + CONNECT_TIMEOUT)
"""Seconds in which a call must be refused whatever Valkey does, with room for a busy machine."""


@pytest.fixture(scope="module")
def doomed() -> Iterator[Valkey]:
    """A server that tests may stop; each gets it running and empty."""
    with running_valkey() as made:
        yield made


@pytest.fixture
def shared(doomed: Valkey) -> Iterator[Valkey]:
    yield doomed
    if doomed.process is None:
        doomed.start()
    doomed.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
    doomed.run("CONFIG", "SET", "maxmemory", "0")
    doomed.run("FLUSHALL")


@dataclass
class Replicas:
    """Two gateways that differ in nothing but where they listen and keep their state."""

    one: Stack
    two: Stack
    issuer: TestIssuer
    client_key: PrivateKey

    @property
    def both(self) -> tuple[Stack, Stack]:
        return self.one, self.two

    def token(self, **claims: Any) -> str:
        return self.issuer.token(self.one.resource(), **claims)

    def assertion(self, **changes: Any) -> str:
        """A client assertion that is good for 5 minutes."""
        now = int(time.time())
        claims = {"iss": "robot", "sub": "robot", "aud": self.one.url, "exp": now + 300, "iat": now, "jti": "once"}
        return sign({"alg": "ES256", "typ": "JWT"}, claims | changes, self.client_key, "ES256")

    async def ask_token(self, stack: Stack, assertion: str) -> httpx2.Response:
        form = {
            "grant_type": "client_credentials",
            "resource": self.one.resource(),
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }
        return await stack.http.post(f"{self.one.url}/token", data=form)


class Holder:
    """A client that holds a key and a token bound to it, and calls any replica."""

    def __init__(self, replicas: Replicas) -> None:
        self.prover = Prover()
        self.token = replicas.token(cnf={"jkt": self.prover.thumbprint})
        self.digest = urlsafe_b64encode(hashlib.sha256(self.token.encode()).digest()).rstrip(b"=").decode()
        self.resource = replicas.one.resource()
        self.nonce: str | None = None

    def proof(self) -> str:
        return self.prover.proof(int(time.time()), self.nonce, htu=self.resource, ath=self.digest)

    async def call(self, stack: Stack, proof: str) -> httpx2.Response:
        headers = {"authorization": f"DPoP {self.token}", "mcp-protocol-version": "2025-11-25", "DPoP": proof}
        return await stack.post(None, tool_call("look"), **headers)

    async def learn_nonce(self, stack: Stack) -> None:
        self.nonce = (await self.call(stack, self.proof())).headers["dpop-nonce"]


@asynccontextmanager
async def two_replicas(
    directory: Path, issuer: TestIssuer, upstream: RecordingUpstream, valkey: Valkey, limits: dict[str, Any]
) -> AsyncIterator[Replicas]:
    """Both replicas, with the keys of the first."""
    port, key = free_port(), new_key("ES256")
    keys = directory / "jwks.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    def settings(name: str) -> dict[str, Any]:
        own = directory / name
        own.mkdir()
        made = settings_for(own, port, {"files": {"url": upstream.url}}, issuer) | valkey.settings
        made["limits"] = limits
        made["agents"]["acme/robot"]["bindings"].append({"issuer": "embedded", "client_id": "robot"})
        made["clients"] = {
            "robot": {
                "tenant": "acme",
                "kind": "agent",
                "agent": "acme/robot",
                "auth": "private_key_jwt",
                "jwks_file": str(keys),
            }
        }
        return made

    async with running(directory / "one", settings("one")) as one:
        socket = directory / "two.sock"
        second = settings("two") | {"listen": f"unix:{socket}"}
        (directory / "two" / "state").mkdir(mode=0o700)
        shutil.copytree(directory / "one" / "state" / "keys", directory / "two" / "state" / "keys")
        async with (
            running(directory / "two", second) as two,
            httpx2.AsyncClient(timeout=20, transport=httpx2.AsyncHTTPTransport(uds=str(socket))) as http,
        ):
            yield Replicas(one, replace(two, http=http), issuer, key)


@pytest.fixture
async def replicas(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, shared: Valkey
) -> AsyncIterator[Replicas]:
    """With limits that no test here reaches by itself, so that every call asks Valkey."""
    limits = {"agent": {"rate": 1000, "burst": 1000}}
    async with two_replicas(tmp_path, issuer, upstream, shared, limits) as made:
        yield made


async def settled(replicas: Replicas, token: str) -> None:
    """Wait until both replicas serve again."""
    async with asyncio.timeout(30):
        for stack in replicas.both:
            while (await stack.call(token, "look")).status_code != 200:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("limit", ["agent", "tool", "tenant"])
async def test_a_burst_over_two_replicas_gets_what_one_replica_would_give(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, shared: Valkey, limit: str
) -> None:
    limits = {"tool": {"rate": 1, "burst": 900}, limit: {"rate": 1, "burst": 5}, "calls_per_agent": 100}
    async with two_replicas(tmp_path, issuer, upstream, shared, limits) as replicas:
        token, begun = replicas.token(), time.monotonic()
        calls = [stack.call(token, "look") for _ in range(10) for stack in replicas.both]
        answers = await asyncio.gather(*calls)
        refilled = int(time.monotonic() - begun)
        ran = [answer for answer in answers if answer.status_code == 200]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert len(ran) + len(limited) == 20
        assert 5 <= len(ran) <= 5 + refilled
        assert len(upstream.calls) == len(ran)
        assert {answer.headers["retry-after"] for answer in limited} == {"1"}
        reasons = replicas.one.reasons() + replicas.two.reasons()
        assert reasons == ["rate_limited"] * len(limited)
        other = replicas.token(azp="other", sub="other")
        # The tenant is what both agents share.
        assert (await replicas.two.call(other, "look")).status_code == (429 if limit == "tenant" else 200) or refilled


async def test_used_proofs_and_assertions_are_used_at_every_replica(
    replicas: Replicas, upstream: RecordingUpstream
) -> None:
    holder = Holder(replicas)
    await holder.learn_nonce(replicas.one)
    proof = holder.proof()
    answers = [await holder.call(stack, proof) for stack in (*replicas.both, replicas.one)]
    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert upstream.calls == ["look"]
    assert replicas.two.reasons()[-1] == "proof_refused"
    assertion = replicas.assertion()
    answers = [await replicas.ask_token(stack, assertion) for stack in (*replicas.both, replicas.one)]
    assert [answer.status_code for answer in answers] == [200, 401, 401], answers[0].text
    assert replicas.two.reasons()[-1] == "assertion_replayed"


async def test_of_one_proof_sent_to_both_replicas_at_once_one_gets_through(
    replicas: Replicas, upstream: RecordingUpstream
) -> None:
    holder = Holder(replicas)
    await holder.learn_nonce(replicas.one)
    proof = holder.proof()
    answers = await asyncio.gather(*(holder.call(stack, proof) for _ in range(8) for stack in replicas.both))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 15
    assert upstream.calls == ["look"]


async def test_while_valkey_is_dead_nothing_is_forwarded_and_afterwards_calls_go_on(
    replicas: Replicas, upstream: RecordingUpstream, shared: Valkey
) -> None:
    token = replicas.token()
    for stack in replicas.both:
        assert (await stack.call(token, "look")).status_code == 200
    holder = Holder(replicas)
    await holder.learn_nonce(replicas.one)
    proof, assertion = holder.proof(), replicas.assertion()
    assert (await holder.call(replicas.one, proof)).status_code == 200
    assert (await replicas.ask_token(replicas.one, assertion)).status_code == 200
    before = len(upstream.seen)

    shared.kill()
    for stack in replicas.both:
        refused = await stack.call(token, "look")
        assert (refused.status_code, refused.json()["error"]["data"]["reason"]) == (503, "unavailable")
        assert (await holder.call(stack, holder.proof())).status_code == 503
        assert (await replicas.ask_token(stack, replicas.assertion(jti="fresh"))).status_code == 503
        listed = await stack.post(token, {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
        assert listed.status_code == 503
        assert set(stack.reasons()) <= {"shared_unavailable", "proof_nonce_required"}
        ready = await stack.http.get(f"{stack.url}/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "shared_unavailable")
    assert len(upstream.seen) == before

    shared.start()
    await settled(replicas, token)
    for stack in replicas.both:
        assert (await stack.http.get(f"{stack.url}/readyz")).status_code == 200
    # It came back empty: what was used is not known any more, so what could be that is refused.
    before = len(upstream.seen)
    for stack in replicas.both:
        assert (await holder.call(stack, proof)).status_code == 503
        assert (await replicas.ask_token(stack, assertion)).status_code == 503
    assert len(upstream.seen) == before
    # Later: what nobody can have accepted before the loss is good again, and the rest when it is too old anyway.
    age(shared, 100)
    assert (await replicas.ask_token(replicas.two, replicas.assertion(jti="late"))).status_code == 200
    assert (await replicas.ask_token(replicas.one, replicas.assertion(jti="late"))).status_code == 401
    soon = int(time.time()) + 60
    assert (await replicas.ask_token(replicas.two, replicas.assertion(jti="soon", exp=soon))).status_code == 503
    age(shared, 300)
    assert (await replicas.ask_token(replicas.two, replicas.assertion(jti="soon", exp=soon))).status_code == 200


def age(shared: Valkey, seconds: int) -> None:
    """Let its memory have begun so much earlier."""
    (memory,) = (key for key in shared.every_key() if key.endswith(b":memory"))
    shared.run("HINCRBY", memory, "began", str(-seconds))


async def test_flushing_valkey_does_not_make_used_values_fresh(
    replicas: Replicas, upstream: RecordingUpstream, shared: Valkey
) -> None:
    token, holder = replicas.token(), Holder(replicas)
    await holder.learn_nonce(replicas.one)
    proof = holder.proof()
    assert (await holder.call(replicas.one, proof)).status_code == 200
    assert (await replicas.two.http.get(f"{replicas.one.url}/readyz")).status_code == 200
    before = len(upstream.seen)
    shared.run("FLUSHALL")
    for stack in replicas.both:
        assert (await holder.call(stack, proof)).status_code == 503
        assert stack.reasons()[-1] == "shared_unavailable"
    assert len(upstream.seen) == before
    # Who needs no such value is served.
    assert (await replicas.one.call(token, "look")).status_code == 200


@pytest.mark.parametrize("logs", [False, True])
async def test_a_valkey_that_restarts_from_a_snapshot_does_not_make_used_values_fresh(*, logs: bool) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always") if logs else ()
    with running_valkey(*options) as valkey:
        link = RedisLink(shared_address(valkey.url), SystemClock(), password=valkey.password_file)
        store = RedisReplayStore(link, "https://gateway.example", SystemRng())

        async def redeemed(value: str) -> bool | ErrorCode:
            # Right after the restart the link may still be of the opinion that nobody is there.
            async with asyncio.timeout(20):
                while True:
                    try:
                        return await store.redeem("dpop", "thumbprint", value, 1060, 1000)
                    except GateError as error:
                        if "lost its memory" in error.debug:
                            return error.code
                        await asyncio.sleep(PAUSE)

        assert await redeemed("before") is True
        valkey.run("SAVE")
        assert await redeemed("since") is True
        valkey.kill()
        valkey.start()
        # The memory's name is there again; what was used since the snapshot is only where each write was logged.
        expected = False if logs else ErrorCode.SHARED_UNAVAILABLE
        assert [await redeemed(value) for value in ("since", "before")] == [expected] * 2
        assert await redeemed("new") is (True if logs else ErrorCode.SHARED_UNAVAILABLE)
        await link.aclose()


async def test_a_hanging_valkey_holds_nobody_up(
    replicas: Replicas, upstream: RecordingUpstream, shared: Valkey
) -> None:
    token = replicas.token()
    assert (await replicas.one.call(token, "look")).status_code == 200
    before = len(upstream.seen)
    with shared.hanging():
        begun = time.monotonic()
        answers = await asyncio.gather(*(replicas.one.call(token, "look") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {503}
        # All of them together, not one after the other.
        assert time.monotonic() - begun < LONGEST_WAIT
        assert len(upstream.seen) == before
        assert set(replicas.one.reasons()) == {"shared_unavailable"}
        # What asks Valkey nothing goes on.
        assert (await replicas.one.http.get(f"{replicas.one.url}/healthz")).status_code == 200
        assert (await replicas.one.call("no.such.token", "look")).status_code == 401
    await settled(replicas, token)


async def test_who_is_cut_off_while_valkey_takes_its_time_is_refused(
    replicas: Replicas, upstream: RecordingUpstream, shared: Valkey
) -> None:
    token, state = replicas.token(), replicas.one.state
    assert (await replicas.one.call(token, "look")).status_code == 200
    before = len(upstream.seen)
    with shared.hanging():
        call = asyncio.create_task(replicas.one.call(token, "look"))
        await asyncio.sleep(COMMAND_TIMEOUT / 10)
        await state.registry_store.disable_agent(AgentId("acme", "robot"), int(time.time()))
    # Counted and found within its limits, if Valkey came back in time; decided again nevertheless.
    assert (await call).status_code in (401, 503)
    assert len(upstream.seen) == before
    assert replicas.one.reasons()[-1] in ("agent_disabled", "shared_unavailable")


async def test_a_caller_who_leaves_while_valkey_hangs_leaves_no_answer_to_the_next(
    replicas: Replicas, upstream: RecordingUpstream, shared: Valkey
) -> None:
    token = replicas.token()
    assert (await replicas.one.call(token, "look")).status_code == 200
    assert replicas.one.state.shared is not None
    redeem = replicas.one.state.replay.redeem
    now = int(time.time())
    with shared.hanging():
        impatient = asyncio.create_task(redeem("jti", "a", "b", now + 60, now))
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
    await settled(replicas, token)
    # Had the answer to the first question stayed on the connection, others would get it from now on.
    outcomes = [await redeem("jti", "a", f"value-{number // 2}", now + 60, now) for number in range(20)]
    assert outcomes == [True, False] * 10


async def test_a_valkey_that_begins_to_evict_is_not_relied_on(
    replicas: Replicas, upstream: RecordingUpstream, shared: Valkey
) -> None:
    token = replicas.token()
    assert (await replicas.one.call(token, "look")).status_code == 200
    shared.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    before = len(upstream.seen)
    ready = await replicas.one.http.get(f"{replicas.one.url}/readyz")
    assert (ready.status_code, ready.json()["reason"]) == (503, "shared_unavailable")
    assert (await replicas.one.call(token, "look")).status_code == 503
    assert len(upstream.seen) == before
    shared.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await settled(replicas, token)


async def test_a_full_valkey_lets_nothing_in(replicas: Replicas, upstream: RecordingUpstream, shared: Valkey) -> None:
    token, holder = replicas.token(), Holder(replicas)
    await holder.learn_nonce(replicas.one)
    assert (await replicas.one.call(token, "look")).status_code == 200
    before = len(upstream.seen)
    shared.run("CONFIG", "SET", "maxmemory", "1")
    assert (await replicas.one.call(token, "look")).status_code == 503
    assert (await holder.call(replicas.one, holder.proof())).status_code == 503
    assert len(upstream.seen) == before
    assert set(replicas.one.reasons()) == {"shared_unavailable", "proof_nonce_required"}


async def test_what_lies_in_valkey_names_nobody_and_no_secret(replicas: Replicas, shared: Valkey) -> None:
    holder = Holder(replicas)
    await holder.learn_nonce(replicas.one)
    proof, assertion = holder.proof(), replicas.assertion(jti="recognizable")
    assert (await holder.call(replicas.one, proof)).status_code == 200
    assert (await replicas.ask_token(replicas.one, assertion)).status_code == 200
    kept = b""
    for key in sorted(shared.every_key()):
        kept += key + repr(shared.run("DUMP", key)).encode()
    assert kept.count(b":used:") == 2
    assert kept.count(b":rate:") >= 1
    for told in ("recognizable", "robot", "acme", "look", "localhost", holder.token, holder.prover.thumbprint):
        assert told.encode() not in kept


async def test_another_deployment_on_the_same_valkey_takes_nothing_away(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, shared: Valkey
) -> None:
    limits = {"agent": {"rate": 1, "burst": 1}}
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        async with two_replicas(tmp_path / name, issuer, upstream, shared, limits) as replicas:
            token = replicas.token()
            assert (await replicas.one.call(token, "look")).status_code == 200
            assert (await replicas.ask_token(replicas.one, replicas.assertion())).status_code == 200
            assert (await replicas.two.call(token, "look")).status_code == 429


@pytest.fixture
def document(tmp_path: Path, shared: Valkey) -> dict[str, Any]:
    return settings_for(tmp_path, 1234, {"files": {"url": "http://127.0.0.1:1/mcp"}}, None) | shared.settings


async def refusal_at_the_start(tmp_path: Path, document: dict[str, Any]) -> str:
    """What `twogate serve` says before it listens."""
    state = await open_state(parse_settings(json.dumps(document), tmp_path / "twogate.yaml"))
    try:
        assert state.shared is not None
        with pytest.raises(GateError) as refused:
            await state.shared.check()
    finally:
        await state.close()
    assert refused.value.code is ErrorCode.SHARED_UNAVAILABLE
    return refused.value.debug


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl", "allkeys-random"])
async def test_no_gateway_starts_on_a_valkey_that_evicts(
    tmp_path: Path, document: dict[str, Any], shared: Valkey, policy: str
) -> None:
    shared.run("CONFIG", "SET", "maxmemory-policy", policy)
    assert "noeviction" in await refusal_at_the_start(tmp_path, document)


async def test_no_gateway_starts_with_a_wrong_password_or_without_one(
    tmp_path: Path, document: dict[str, Any], shared: Valkey
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("barracuda")
    wrong.chmod(0o600)
    told = await refusal_at_the_start(tmp_path, document | {"shared_password": str(wrong)})
    assert "shared_password" in told
    assert "barracuda" not in told
    del document["shared_password"]
    assert "shared_password" in await refusal_at_the_start(tmp_path, document)


async def test_no_gateway_starts_without_its_valkey_or_a_database_of_it(
    tmp_path: Path, document: dict[str, Any], shared: Valkey
) -> None:
    told = await refusal_at_the_start(tmp_path, document | {"shared": shared.url.replace("/0", "/99")})
    assert f"{shared.port}/99" in told
    absent = f"redis://127.0.0.1:{free_port()}"
    assert "connect" in await refusal_at_the_start(tmp_path, document | {"shared": absent})


async def test_serve_ends_with_what_is_wrong_before_it_listens(
    tmp_path: Path, document: dict[str, Any], shared: Valkey
) -> None:
    shared.run("CONFIG", "SET", "maxmemory-policy", "volatile-lfu")
    document["listen"] = f"127.0.0.1:{free_port()}"
    (tmp_path / "twogate.yaml").write_text(json.dumps(document))
    done = await asyncio.to_thread(cli, "serve", "-c", tmp_path / "twogate.yaml")
    assert done.returncode == 1
    assert "set its maxmemory-policy to noeviction" in done.stderr
    assert '"event": "ready"' not in done.stderr
