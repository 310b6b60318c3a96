"""What the authorization server knows outlives its processes, and is the same in each of them (rows R-20, R-61).

Two `twogate serve` processes on one real PostgreSQL, behind one public address; each step is made at the other one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from harness.postgres import running_cluster
from harness.stack import free_port, tool_call
from peers.oauthworld import LOOPBACK, NAME, PASSWORD, SCOPE, SERVER, TOOL, add_person, new_key, oauth_settings
from peers.person import Person
from peers.test_postgres import Replica, recording_in_a_thread
from processlab import init

pytestmark = pytest.mark.peer

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


class Route(httpx2.BaseTransport):
    """What stands before the replicas: takes what is for the public address to one of them."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host, _, port = json.loads(self.replica.config.read_text())["listen"].partition(":")
        with httpx2.HTTPTransport() as transport:
            url = request.url.copy_with(host=host, port=int(port))
            response = transport.handle_request(
                httpx2.Request(request.method, url, headers=request.headers, content=request.read())
            )
            response.read()
            return response


@dataclass
class World:
    """Two replicas of one authorization server."""

    one: Replica
    two: Replica

    @property
    def resource(self) -> str:
        """The server's endpoint."""
        return f"{self.one.url}/mcp/{SERVER}"

    def person(self, route: Route) -> Person:
        """Alice at a new browser."""
        return Person(self.one.url, NAME, PASSWORD, route)

    def code(self, person: Person) -> str:
        """A code by the authorization endpoint that the person's browser reaches."""
        query = {
            "client_id": "native", "response_type": "code", "redirect_uri": LOOPBACK, "scope": SCOPE,
            "resource": self.resource, "code_challenge": CHALLENGE, "code_challenge_method": "S256",
        }  # fmt: skip
        callback = person.open(f"{self.one.url}/authorize?{httpx2.QueryParams(query)}")
        return parse_qs(urlsplit(callback).query)["code"][0]

    def redeem(self, replica: Replica, code: str) -> httpx2.Response:
        return replica.http.post(
            "/token",
            data={
                "grant_type": "authorization_code", "client_id": "native", "code": code, "redirect_uri": LOOPBACK,
                "code_verifier": VERIFIER,
            },
        )  # fmt: skip

    def refresh(self, replica: Replica, tokens: dict[str, Any]) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "client_id": "native", "refresh_token": tokens["refresh_token"]}
        return replica.http.post("/token", data=form)

    def works(self, replica: Replica, tokens: dict[str, Any]) -> bool:
        """Whether a tool can be called with a token."""
        answer = replica.http.post(
            f"/mcp/{SERVER}",
            json=tool_call(TOOL),
            headers={
                "authorization": f"Bearer {tokens['access_token']}",
                "accept": "application/json, text/event-stream",
                "mcp-protocol-version": "2025-11-25",
            },
        )
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200


def good(answer: httpx2.Response) -> dict[str, Any]:
    """The tokens of an answer."""
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_cluster() as cluster, recording_in_a_thread() as upstream:
        first, second = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
        settings = {**oauth_settings(first, upstream.url, new_key()), "store": cluster.url(cluster.new_user())}
        init(first, settings, port=free_port(), tls=False)
        one = Replica(first)
        document = json.loads(one.config.read_text())
        for name in ("web.secret", "robot.json"):
            shutil.copy(first / name, second / name)
        (second / "twogate.yaml").write_text(json.dumps({**document, "listen": f"127.0.0.1:{free_port()}"}))
        two = Replica(second)
        try:
            one.start()
            (second / "state").mkdir(mode=0o700)
            shutil.copytree(first / "state" / "keys", second / "state" / "keys")
            two.start()
            add_person(first)
            yield World(one, two)
            for replica in (one, two):
                assert replica.stop() == 0, "".join(replica.log)
                replica.verify_audit()
        finally:
            for replica in (one, two):
                replica.end()
                replica.http.close()


def test_a_code_of_one_is_redeemed_at_the_other_and_refreshed_in_turns(world: World) -> None:
    with world.person(Route(world.one)) as person:
        tokens = good(world.redeem(world.two, world.code(person)))
    for replica in (world.one, world.two, world.one):
        assert world.works(replica, tokens)
        tokens = good(world.refresh(replica, tokens))
    assert world.works(world.two, tokens)


def test_a_code_that_is_redeemed_at_both_at_once_is_redeemed_once(world: World) -> None:
    with world.person(Route(world.two)) as person:
        code = world.code(person)
    with ThreadPoolExecutor(20) as pool:
        replicas = [world.one, world.two] * 10
        answers = list(pool.map(lambda replica: world.redeem(replica, code), replicas))
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert {answer.json()["error"] for answer in answers if answer not in won} == {"invalid_grant"}
    # Somebody used it twice, so what it gave is taken back everywhere.
    assert not world.works(world.one, won[0].json())
    assert not world.works(world.two, won[0].json())


def test_a_login_of_one_is_a_login_of_the_other(world: World) -> None:
    route = Route(world.one)
    with world.person(route) as person:
        world.code(person)
        asked = len(person.seen)
        route.replica = world.two
        world.code(person)
        assert not any('name="password"' in page for page in person.seen[asked:])


def test_a_device_begins_here_its_person_decides_there(world: World) -> None:
    begun = world.one.http.post(
        "/device_authorization", data={"client_id": "cli", "resource": world.resource, "scope": SCOPE}
    ).json()
    form = {"grant_type": DEVICE_CODE, "client_id": "cli", "device_code": begun["device_code"]}
    assert world.two.http.post("/token", data=form).json()["error"] == "authorization_pending"
    with world.person(Route(world.two)) as person:
        assert "has access now" in person.let_in(f"{world.one.url}/device", begun["user_code"])
    with ThreadPoolExecutor(20) as pool:
        replicas = [world.one, world.two] * 10
        answers = list(pool.map(lambda replica: replica.http.post("/token", data=form), replicas))
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert world.works(world.one, won)
    assert world.works(world.two, won)


def test_a_used_refresh_token_ends_its_grant_everywhere(world: World) -> None:
    with world.person(Route(world.one)) as person:
        tokens = good(world.redeem(world.one, world.code(person)))
    later = good(world.refresh(world.two, tokens))
    assert world.works(world.one, later)
    # The client is public, so whoever comes with the old token may have stolen it.
    assert world.refresh(world.one, tokens).json()["error"] == "invalid_grant"
    for replica in (world.one, world.two):
        assert not world.works(replica, later)
        assert world.refresh(replica, later).json()["error"] == "invalid_grant"


def test_codes_tokens_logins_and_devices_outlive_a_crash_of_every_process(world: World) -> None:
    with world.person(Route(world.one)) as person:
        tokens = good(world.redeem(world.one, world.code(person)))
        code = world.code(person)
        begun = world.one.http.post(
            "/device_authorization", data={"client_id": "cli", "resource": world.resource, "scope": SCOPE}
        ).json()
        for replica in (world.one, world.two):
            replica.kill()
        for replica in (world.one, world.two):
            replica.start()
            replica.move()
        assert world.works(world.two, tokens)
        assert world.works(world.two, good(world.refresh(world.two, tokens)))
        assert world.works(world.one, good(world.redeem(world.two, code)))
        asked = len(person.seen)
        world.code(person)
        assert not any('name="password"' in page for page in person.seen[asked:])
        assert "has access now" in person.let_in(f"{world.one.url}/device", begun["user_code"])
    form = {"grant_type": DEVICE_CODE, "client_id": "cli", "device_code": begun["device_code"]}
    assert world.works(world.two, good(world.two.http.post("/token", data=form)))
