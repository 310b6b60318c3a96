"""Two `twogate serve` processes on one real PostgreSQL, told apart by nothing but their addresses (rows R-61, R-90).

A server of its own, since it is stopped, killed and frozen here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest
from joserfc.jwk import ECKey

from harness.issuer import sign
from harness.postgres import Cluster, running_cluster
from harness.stack import free_port, tool_call
from harness.upstream import RecordingUpstream
from processlab import PATIENCE, Gateway, cli, cli_json, descendants, here_json, init, living, request_headers, until
from twogate.core.errors import ErrorCode

pytestmark = pytest.mark.peer

_numbers = count(1)


class Replica(Gateway):
    """One of several processes behind one public address, reached directly."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.http = self.new_client()

    def new_client(self) -> httpx2.Client:
        """A client with an address of its own, so that its refusals are not coalesced with those of others."""
        return httpx2.Client(
            base_url=f"http://{json.loads(self.config.read_text())['listen']}",
            headers={"host": self.url.removeprefix("http://")},
            transport=httpx2.HTTPTransport(local_address=f"127.0.1.{next(_numbers) % 250 + 1}"),
            timeout=PATIENCE,
            trust_env=False,
        )

    def move(self) -> None:
        """Go on from another address."""
        self.http.close()
        self.http = self.new_client()

    def look(self, token: str, **headers: str) -> httpx2.Response:
        """Call a tool."""
        sent = request_headers(token) | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/mcp/files", json=tool_call("look"), headers=sent)

    def ask_token(self, agent: dict[str, Any], assertion: str | None = None) -> httpx2.Response:
        """Ask for a token with a secret, or with an assertion."""
        form = {"grant_type": "client_credentials", "resource": f"{self.url}/mcp/files"}
        if assertion is None:
            return self.http.post("/token", data=form, auth=(agent["client_id"], agent["client_secret"]))
        form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        form["client_assertion"] = assertion
        return self.http.post("/token", data=form)

    def reasons(self) -> list[str]:
        """The reasons of the refusals on its audit trail."""
        return [event["reason"] for event in self.events() if event.get("reason")]


@dataclass
class World:
    """Two replicas, the database under them and the server behind them."""

    cluster: Cluster
    upstream: RecordingUpstream
    one: Replica
    two: Replica

    @property
    def both(self) -> tuple[Replica, Replica]:
        """Both replicas."""
        return self.one, self.two

    def agent(self, *, auth: str = "client_secret", tasks: tuple[str, ...] = ("report",)) -> dict[str, Any]:
        """A new agent with these tasks, the first by default."""
        options = [option for task in tasks for option in ("--task", task)]
        added: dict[str, Any] = here_json(
            "agent", "add", f"acme/agent-{next(_numbers)}", "--role", "reader", *options, "--default-task", tasks[0],
            "--auth", auth, "--config", self.one.config,
        )  # fmt: skip
        return added

    def token(self, agent: dict[str, Any]) -> str:
        """A token of one replica, which the other takes as its own."""
        answer = self.one.ask_token(agent)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        for replica in self.both:
            assert replica.look(token).status_code == 200
        return token

    @contextmanager
    def reaching_nothing(self) -> Iterator[None]:
        """The server behind must see nothing meanwhile."""
        before = len(self.upstream.seen)
        yield
        assert len(self.upstream.seen) == before


@contextmanager
def recording_in_a_thread() -> Iterator[RecordingUpstream]:
    """The server behind, on a loop of its own, since these tests block theirs."""
    upstream, ready, stop = RecordingUpstream(), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        async with upstream:
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield upstream
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_cluster() as cluster, recording_in_a_thread() as upstream:
        first, second = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
        settings = {
            "store": cluster.url(cluster.new_user()),
            "servers": {"files": {"url": upstream.url}},
            "tools": {"files.look": {"class": "read"}},
            "tasks": {name: {"tools": ["files.look"]} for name in ("report", "audit", "survey", "tidy")},
            "tenants": {"acme": {"servers": ["files"]}},
        }
        init(first, settings, port=free_port(), tls=False)
        one = Replica(first)
        document = json.loads(one.config.read_text())
        (second / "twogate.yaml").write_text(json.dumps({**document, "listen": f"127.0.0.1:{free_port()}"}))
        two = Replica(second)
        try:
            one.start()
            # Replicas share their keys; everything else that they share is in the database.
            (second / "state").mkdir(mode=0o700)
            shutil.copytree(first / "state" / "keys", second / "state" / "keys")
            two.start()
            yield World(cluster, upstream, one, two)
            for replica in (one, two):
                assert replica.stop() == 0, "".join(replica.log)
                replica.verify_audit()
        finally:
            for replica in (one, two):
                replica.end()
                replica.http.close()


def refused_everywhere(world: World, token: str, code: ErrorCode) -> None:
    """The very next request to each replica is refused, and for this reason."""
    for replica in world.both:
        replica.move()
    with world.reaching_nothing():
        answers = [replica.look(token) for replica in world.both]
        assert [answer.status_code in (401, 403) for answer in answers] == [True, True], [a.text for a in answers]
    for replica in world.both:
        assert replica.reasons()[-1] == code


def test_an_agent_disabled_by_the_command_line_is_refused_by_every_replica_at_the_next_request(world: World) -> None:
    for _ in range(3):
        agent = world.agent()
        token = world.token(agent)
        here_json("agent", "disable", agent["agent"], "--config", world.two.config)
        refused_everywhere(world, token, ErrorCode.AGENT_DISABLED)
        for replica in world.both:
            assert replica.ask_token(agent).status_code == 401


def test_a_session_ended_by_the_command_line_is_refused_by_every_replica_at_the_next_request(world: World) -> None:
    agent = world.agent()
    token = world.token(agent)
    listed = here_json("session", "list", "--config", world.one.config)["sessions"]
    (session,) = [row for row in listed if row["agent"] == agent["agent"]]
    here_json("session", "end", session["session"], "--config", world.one.config)
    refused_everywhere(world, token, ErrorCode.SESSION_ENDED)


def test_a_token_given_back_at_one_replica_is_refused_by_every_replica_at_the_next_request(world: World) -> None:
    for replica in (*world.both, *world.both):
        agent = world.agent()
        token = world.token(agent)
        answer = replica.http.post("/revoke", data={"token": token}, auth=(agent["client_id"], agent["client_secret"]))
        assert answer.status_code == 200, answer.text
        refused_everywhere(world, token, ErrorCode.TOKEN_REVOKED)
        # Only the token: its client gets another.
        world.token(agent)


def test_a_token_revoked_by_the_command_line_is_refused_by_every_replica_at_the_next_request(world: World) -> None:
    token = world.token(world.agent())
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    here_json("token", "revoke", "--jti", jti, "--config", world.two.config)
    refused_everywhere(world, token, ErrorCode.TOKEN_REVOKED)


def test_a_proof_and_its_nonce_are_the_same_at_every_replica(world: World) -> None:
    agent, key = world.agent(), ECKey.generate_key("P-256")

    def ask(replica: Replica, proof: str) -> httpx2.Response:
        form = {"grant_type": "client_credentials", "resource": f"{replica.url}/mcp/files"}
        auth = (agent["client_id"], agent["client_secret"])
        return replica.http.post("/token", data=form, auth=auth, headers={"DPoP": proof})

    def proof(nonce: str | None) -> str:
        claims = {"jti": uuid4().hex, "htm": "POST", "htu": f"{world.one.url}/token", "iat": int(time.time())}
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
        return sign(header, claims if nonce is None else {**claims, "nonce": nonce}, key, "ES256")

    asked = ask(world.one, proof(None))
    assert asked.json()["error"] == "use_dpop_nonce"
    used = proof(asked.headers["DPoP-Nonce"])
    assert ask(world.two, used).json()["token_type"] == "DPoP"
    for replica in world.both:
        assert ask(replica, used).json()["error"] == "invalid_dpop_proof"


def test_a_client_assertion_that_one_replica_took_is_refused_by_the_other(world: World) -> None:
    agent = world.agent(auth="private_key_jwt")
    now = int(time.time())
    claims = {
        "iss": agent["client_id"], "sub": agent["client_id"], "aud": world.one.url, "iat": now, "exp": now + 60,
        "jti": uuid4().hex,
    }  # fmt: skip
    assertion = jwt.encode(claims, agent["private_key_pem"], algorithm="ES256")
    assert world.one.ask_token(agent, assertion).status_code == 200
    answer = world.two.ask_token(agent, assertion)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert world.two.reasons()[-1] == ErrorCode.ASSERTION_REPLAYED


def test_tasks_declared_at_once_at_both_replicas_do_not_pass_the_limit(world: World) -> None:
    tasks = ("report", "audit", "survey", "tidy")
    agent = world.agent(tasks=tasks)
    token = world.one.ask_token(agent).json()["access_token"]
    start = threading.Barrier(2 * len(tasks))

    def declare(replica: Replica, task: str) -> int:
        with replica.new_client() as http:
            start.wait(PATIENCE)
            headers = request_headers(token) | {"twogate-task": task}
            return http.post("/mcp/files", json=tool_call("look"), headers=headers).status_code

    with ThreadPoolExecutor(2 * len(tasks)) as pool:
        statuses = list(pool.map(lambda pair: declare(*pair), [(r, task) for r in world.both for task in tasks]))
    # The same task at both replicas is the same session; the others are refused.
    assert sorted(statuses) == [200] * 2 + [403] * (2 * len(tasks) - 2)
    sessions = here_json("session", "list", "--config", world.two.config)["sessions"]
    assert len([row for row in sessions if row["agent"] == agent["agent"]]) == 1
    assert {reason for replica in world.both for reason in replica.reasons()[-3:]} == {ErrorCode.TASK_LIMIT}


def test_a_replica_that_was_frozen_while_an_agent_was_disabled_refuses_as_soon_as_it_wakes(world: World) -> None:
    agent = world.agent()
    token = world.token(agent)
    os.kill(world.two.pid, signal.SIGSTOP)
    try:
        # Returns although that replica cannot answer: its lease ends without it.
        here_json("agent", "disable", agent["agent"], "--config", world.one.config)
    finally:
        os.kill(world.two.pid, signal.SIGCONT)
    refused_everywhere(world, token, ErrorCode.AGENT_DISABLED)


def test_replicas_whose_connections_were_cut_go_on_and_still_hear_of_changes(world: World) -> None:
    agent = world.agent()
    token = world.token(agent)
    world.cluster.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'twogate'")
    here_json("agent", "disable", agent["agent"], "--config", world.one.config)
    with world.reaching_nothing():
        for replica in world.both:
            answered(replica, token, lambda status: status == 401)


@pytest.mark.parametrize("how", ["stopped", "crashed", "frozen"])
def test_without_the_database_every_call_is_refused_and_with_it_served_again_without_a_restart(
    world: World, how: str
) -> None:
    token = world.token(world.agent())
    with away(world.cluster, how):
        for replica in world.both:
            # As long as a lease lasts, what a replica knows is still true: nobody can have changed anything.
            answered(replica, token, lambda status: status == 503)
        with world.reaching_nothing():
            for replica in world.both:
                replica.move()
                refused = replica.look(token)
                assert (refused.status_code, refused.json()["error"]["data"]["reason"]) == (503, "unavailable")
                assert replica.reasons()[-1] == ErrorCode.STORE_UNAVAILABLE
                assert replica.http.get("/readyz").status_code == 503
            told = cli("agent", "list", "--config", world.one.config)
            assert (told.returncode, told.stdout) == (1, "")
            assert "Traceback" not in told.stderr
    for replica in world.both:
        answered(replica, token, lambda status: status == 200)
        assert replica.http.get("/readyz").status_code == 200
    agent = world.agent()
    token = world.token(agent)
    cli_json("agent", "disable", agent["agent"], "--config", world.one.config)
    refused_everywhere(world, token, ErrorCode.AGENT_DISABLED)


@contextmanager
def away(cluster: Cluster, how: str) -> Iterator[None]:
    """The database does not answer meanwhile."""
    if how == "frozen":
        assert cluster.process is not None
        frozen = [cluster.process.pid, *(pid for pid, _ in descendants(cluster.process.pid))]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(frozen):
                os.kill(pid, signal.SIGCONT)
        return
    cluster.stop(how=signal.SIGINT if how == "stopped" else signal.SIGQUIT)
    try:
        yield
    finally:
        cluster.start()


def answered(replica: Replica, token: str, expected: Callable[[int], bool]) -> None:
    """Call until it is answered so."""
    statuses: list[int] = []

    def check() -> bool:
        statuses.append(replica.look(token).status_code)
        return expected(statuses[-1])

    until(check, f"the last answers were {statuses[-5:]}")


def test_a_replica_that_was_killed_holds_up_nobody_for_longer_than_its_lease(world: World) -> None:
    agent = world.agent()
    token = world.token(agent)
    family = descendants(world.two.pid)
    world.two.kill()
    assert not living(family)
    here_json("agent", "disable", agent["agent"], "--config", world.one.config)
    with world.reaching_nothing():
        assert world.one.look(token).status_code == 401
    world.two.start()
    refused_everywhere(world, token, ErrorCode.AGENT_DISABLED)
