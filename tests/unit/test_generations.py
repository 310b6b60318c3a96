"""From one configuration generation to the next: what is taken over, what is made anew, and what refuses the step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import TestIssuer
from harness.stack import free_port, settings_for
from processlab import read_events
from rawlab import Authority
from twogate.adapters.serving import STATUS, Serving, Status, find_serving
from twogate.app import Application, build_app
from twogate.config import Settings, load_settings, parse_settings
from twogate.core.principal import PrincipalKey
from twogate.reload import Reloader, changed
from twogate.state import State, open_state
from twogate.web.generation import Generation

ROBOT = PrincipalKey(tenant="acme", issuer="https://login.example.com", agent="robot", user=None)


@dataclass
class World:
    """An application that serves nobody, and its settings."""

    app: Application
    state: State
    settings: dict[str, Any]
    directory: Path

    def next(self, settings: dict[str, Any]) -> Generation:
        return self.app.build_next(parse(settings, self.directory))

    def changed(self, path: str, value: object) -> dict[str, Any]:
        """The settings with one key (`servers.files.url`) set, or removed if the value is None."""
        settings = deepcopy(self.settings)
        *parents, last = path.split(".")
        place: Any = settings
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value
        if value is None:
            del place[last]
        return settings


def parse(settings: dict[str, Any], directory: Path) -> Settings:
    return parse_settings(json.dumps(settings), directory / "twogate.yaml")


@pytest.fixture
async def world(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[World]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.pem").write_bytes(Authority(tmp_path / name).ca_file.read_bytes())
    servers = {
        "files": {"url": "https://files.example.com/mcp", "ca": "one.pem"},
        "notes": {"url": "http://127.0.0.1:9/mcp"},
        "work": {"command": ["server", "--fast"], "cwd": "one", "env": {"HOME": "/nowhere"}},
    }
    settings = settings_for(tmp_path, free_port(), servers, issuer)
    settings["issuers"].append(
        {
            "issuer": "https://login.example.com", "algorithms": ["ES256"], "tenants": ["acme"], "ca": "one.pem",
            "jwks_uri": "https://login.example.com/keys", "claims": {"agent": "/azp"},
        }
    )  # fmt: skip
    (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
    state = await open_state(load_settings(tmp_path / "twogate.yaml"))
    yield World(build_app(state), state, settings, tmp_path)
    await state.close()


# --- servers


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("limits.body", "64KiB"),
        ("servers.files.timeout", "5s"),
        ("servers.work.client_requests", ["roots"]),
        ("servers.other", {"url": "http://127.0.0.1:9/mcp"}),
        ("roles", {"reader": {"allow": ["read"]}, "executor": {"allow": ["read"]}}),
        ("agents", {}),
    ],
)
async def test_servers_whose_own_settings_are_the_same_keep_their_connections(
    world: World, path: str, value: object
) -> None:
    upstreams = world.next(world.changed(path, value)).upstreams
    assert {name: upstreams[name] for name in world.settings["servers"]} == world.app.current.upstreams


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("servers.files.url", "https://files.example.com/other"),
        ("servers.files.url", "https://elsewhere.example.com/mcp"),
        ("servers.files.ca", "two.pem"),
        ("servers.files.ca", None),
        ("servers.files.transport", "sse"),
        ("servers.work.command", ["server"]),
        ("servers.work.command", ["server", "--fast", "--more"]),
        ("servers.work.cwd", "two"),
        ("servers.work.cwd", None),
        ("servers.work.env", {"HOME": "/elsewhere"}),
        ("servers.work.env", {}),
        ("servers.work", {"url": "http://127.0.0.1:9/mcp"}),
        ("servers.notes", {"command": ["server"]}),
    ],
)
async def test_a_server_that_is_another_one_now_gets_connections_of_its_own(
    world: World, path: str, value: object
) -> None:
    before, after = world.app.current.upstreams, world.next(world.changed(path, value)).upstreams
    name = path.split(".")[1]
    assert after[name] is not before[name]
    assert [other for other in before if other != name and after[other] is not before[other]] == []


async def test_a_sandbox_that_must_hide_something_new_is_another_one(world: World) -> None:
    world.settings["servers"]["work"] = {"command": ["server"], "sandbox": {}}
    world.app.adopt(world.next(world.settings))
    assert world.next(world.settings).upstreams == world.app.current.upstreams
    # Twogate keeps something in a directory that no sandbox hid before.
    after = world.next(world.changed("listen", f"unix:{world.directory}/one/socket"))
    assert after.upstreams["work"] is not world.app.current.upstreams["work"]
    assert after.upstreams["files"] is world.app.current.upstreams["files"]


async def test_a_ca_file_that_was_replaced_is_read_anew(world: World) -> None:
    before = world.app.current
    (world.directory / "one.pem").write_bytes((world.directory / "two.pem").read_bytes())
    after = world.next(world.settings)
    assert after.settings.generation == before.settings.generation
    assert after.upstreams["files"] is not before.upstreams["files"]
    assert after.keys["https://login.example.com"] is not before.keys["https://login.example.com"]
    world.app.adopt(after)
    assert world.next(world.settings).upstreams == after.upstreams


async def test_a_name_never_gets_the_connections_of_another_name(world: World) -> None:
    servers = world.settings["servers"]
    swapped = {**servers, "notes": servers["work"], "work": servers["notes"]}
    before, after = world.app.current.upstreams, world.next({**world.settings, "servers": swapped}).upstreams
    assert {after["notes"], after["work"]}.isdisjoint(before.values())


# --- issuers and limits


async def test_fetched_keys_are_kept_while_issuer_address_and_authority_are_the_same(world: World) -> None:
    name, before = "https://login.example.com", world.app.current.keys
    same: dict[str, object] = {
        "issuers.1.algorithms": ["RS256"], "issuers.1.max_lifetime": "5m", "embedded.enabled": False,
    }  # fmt: skip
    for path, value in same.items():
        assert world.next(world.changed(path, value)).keys[name] is before[name]
    other: list[tuple[str, object]] = [
        ("issuers.1.jwks_uri", "https://login.example.com/other"), ("issuers.1.ca", "two.pem"),
        ("issuers.1.jwks_uri", None), ("issuers.1.ca", None),
    ]  # fmt: skip
    for path, value in other:
        assert world.next(world.changed(path, value)).keys[name] is not before[name]
    embedded = parse(world.settings, world.directory).public_url
    assert embedded not in world.next(world.changed("embedded.enabled", False)).keys


async def test_a_reload_frees_nobody_of_what_was_counted(world: World) -> None:
    before = world.app.current
    assert before.limit.take("192.0.2.1", 0.0) == 0.0
    assert before.under_way.begin(ROBOT)
    kept = world.next(world.settings)
    assert kept.limit is before.limit
    one = world.next(world.changed("limits.calls_per_agent", 1))
    assert not one.under_way.begin(ROBOT)
    before.under_way.end(ROBOT)  # the call ends in the generation that it began in
    assert one.under_way.begin(ROBOT)
    narrow = world.next(world.changed("limits.burst", 1))
    assert [narrow.limit.take("192.0.2.1", 0.0) == 0.0 for _ in range(2)] == [True, False]


async def test_building_a_generation_in_a_thread_changes_nothing(world: World) -> None:
    before = world.app.current
    after = await asyncio.to_thread(world.next, world.changed("servers.notes.url", "http://127.0.0.1:10/mcp"))
    assert world.app.current is before
    assert not before.superseded.is_set()
    assert after.settings.generation != before.settings.generation


# --- what needs a restart


async def test_what_cannot_change_while_serving_is_named(world: World) -> None:
    before = parse(world.settings, world.directory)
    fixed: dict[str, object] = {
        "public_url": f"http://localhost:{free_port()}",
        "listen": f"127.0.0.1:{free_port()}",
        "store": "sqlite:////elsewhere/twogate.db",
        "state": "elsewhere",
        "limits.body": "64KiB",
        "limits.connections": 7,
        "limits.connections_per_address": 7,
        "audit.fsync": True,
    }
    for path, value in fixed.items():
        assert changed(before, parse(world.changed(path, value), world.directory)) == [path]
    free: dict[str, object] = {
        "limits.requests": 7,
        "limits.burst": 7,
        "limits.calls_per_agent": 7,
        "agents": {},
        "allowed_origins": ["https://app.example.com"],
        "embedded.lifetimes.access_token": "1m",
    }
    for path, value in free.items():
        assert changed(before, parse(world.changed(path, value), world.directory)) == []


async def test_tls_neither_comes_nor_goes_while_serving(world: World) -> None:
    (world.directory / "server.pem").touch()
    (world.directory / "server.key").touch(mode=0o600)
    behind_a_proxy = {
        **{key: value for key, value in world.settings.items() if key not in ("public_url", "listen")},
        "public_url": "https://mcp.example.com",
        "listen": f"unix:{world.directory}/http.sock",
    }
    plain = parse(behind_a_proxy, world.directory)
    files = {"certificate": "server.pem", "key": "server.key"}
    own = parse({**behind_a_proxy, "tls": files}, world.directory)
    assert (changed(plain, own), changed(own, plain)) == (["tls"], ["tls"])
    other = parse({**behind_a_proxy, "tls": {**files, "certificate": "one.pem"}}, world.directory)
    assert changed(own, other) == []


# --- one attempt to reload


@dataclass
class Attempts:
    """A reloader without a listener."""

    world: World
    reloader: Reloader
    serving: Serving

    @property
    def status(self) -> Status:
        status = find_serving(self.world.directory / "state")
        assert status is not None
        return status

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.world.directory / "state" / "audit") if event["kind"] == kind]

    async def attempt(self, path: str, value: object) -> str:
        """The code of one attempt with changed settings."""
        (self.world.directory / "twogate.yaml").write_text(json.dumps(self.world.changed(path, value)))
        await self.reloader.reload()
        assert self.status.last is not None
        return self.status.last.code


@pytest.fixture
def attempts(world: World) -> Attempts:
    serving = Serving(world.directory / "state")
    config = world.directory / "twogate.yaml"
    reloader = Reloader(config, world.app, world.state, None, serving, asyncio.Event())
    reloader.ready(4711)
    return Attempts(world, reloader, serving)


async def test_each_attempt_is_counted_and_a_taken_one_is_in_force(attempts: Attempts) -> None:
    first = attempts.world.app.current.settings.generation
    assert await attempts.attempt("limits.requests", 7) == ""
    second = attempts.world.app.current.settings.generation
    assert await attempts.attempt("limits.requests", "many") == "configuration_invalid"
    assert (attempts.status.begun, attempts.status.generation) == (2, second)
    assert [event["detail"] for event in attempts.events("configuration.reloaded")] == [f"{first} -> {second}"]
    assert [event["detail"] for event in attempts.events("configuration.refused")] == ["line 1 limits.requests"]
    attempts.serving.close()


async def test_a_change_that_cannot_be_written_down_is_not_made(attempts: Attempts) -> None:
    before = attempts.world.app.current
    await attempts.world.state.audit.close()
    assert await attempts.attempt("limits.requests", 7) == "audit_unavailable"
    assert attempts.world.app.current is before
    attempts.serving.close()


async def test_a_broken_store_refuses_the_reload(attempts: Attempts) -> None:
    before = attempts.world.app.current
    for path in (attempts.world.directory / "state").glob("twogate.db*"):
        path.unlink()
    (attempts.world.directory / "state" / "twogate.db").mkdir()
    await attempts.world.state.engine.dispose()
    assert await attempts.attempt("limits.requests", 7) == "store_unavailable"
    assert attempts.world.app.current is before
    attempts.serving.close()


async def test_without_a_status_to_tell_it_by_nothing_is_reloaded(attempts: Attempts) -> None:
    before, status = attempts.world.app.current, attempts.world.directory / "state" / STATUS
    status.unlink()
    status.mkdir()
    (attempts.world.directory / "twogate.yaml").write_text(json.dumps(attempts.world.changed("limits.requests", 7)))
    await attempts.reloader.reload()
    assert attempts.world.app.current is before
    status.rmdir()
    assert await attempts.attempt("limits.requests", 7) == ""
    # The number of the attempt that nobody was told of is not used again.
    assert attempts.status.begun == 2
    attempts.serving.close()


async def test_a_stopping_process_reloads_no_more(attempts: Attempts) -> None:
    before = attempts.world.app.current
    attempts.world.app.draining.set()
    assert await attempts.attempt("limits.requests", 7) == "stopping"
    assert attempts.world.app.current is before
    attempts.serving.close()
