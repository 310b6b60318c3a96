"""Clients of the whole server: who is let in by the configuration, and what is left of one that was taken away."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from tokenlab import basic
from twogate.adapters.signers.agent_key import new_agent_key
from twogate.config import ConfigError
from twogate.config.file import parse_settings
from twogate.core.principal import AgentId
from twogate.flows.authserver.client_admin import ClientAdmin, NewClient
from twogate.flows.authserver.client_removal import ClientRemoval
from twogate.flows.authserver.clients import ClientAuth, ClientKind
from twogate.flows.authserver.revocations import Revocations
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.registrations import SqlRegistrationStore
from twogate.stores.sql.revocations import SqlRevocationStore

SECRET = "configured-secret-of-forty-three-characters"
CALLBACK = {"redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "none"}


def configuration(directory: Path, port: int, upstream: RecordingUpstream) -> dict[str, Any]:
    (directory / "digest").write_text(hashlib.sha256(SECRET.encode()).hexdigest())
    settings = settings_for(directory, port, {"files": {"url": upstream.url}}, None)
    tasks = {"role": "reader", "tasks": ["report"], "default_task": "report"}
    settings["agents"] = {
        "acme/public-client": {"role": "reader", "tasks": ["report"]},
        "acme/robot": {**tasks, "bindings": [{"issuer": "embedded", "client_id": "robot"}]},
    }
    settings["clients"] = {
        "robot": {
            "tenant": "acme",
            "kind": "agent",
            "agent": "acme/robot",
            "auth": "client_secret",
            "secret_digest_file": str(directory / "digest"),
        }
    }
    return settings


@pytest.fixture
async def served(tmp_path: Path, upstream: RecordingUpstream) -> AsyncIterator[Stack]:
    async with running(tmp_path, configuration(tmp_path, free_port(), upstream)) as stack:
        yield stack


async def token(stack: Stack, client_id: str, secret: str) -> httpx2.Response:
    form = {"grant_type": "client_credentials", "resource": stack.resource()}
    return await stack.http.post(f"{stack.url}/token", data=form, headers=basic(client_id, secret))


def admin(stack: Stack) -> ClientAdmin:
    """As the command line has it: over the same store, in whatever process."""
    state = stack.state
    revocations = Revocations(SqlRevocationStore(state.engine))
    return ClientAdmin(
        stack.url,
        clients=state.clients,
        removal=ClientRemoval(stack.url, state.clients, SqlGrantStore(state.engine), revocations),
        tokens=SqlRegistrationStore(state.engine),
        agents=state.registry,
        audit=state.audit,
        clock=state.clock,
        rng=state.rng,
        new_key=new_agent_key,
    )


async def test_a_client_of_the_configuration_gets_tokens_and_calls(served: Stack) -> None:
    given = await token(served, "robot", SECRET)
    assert given.status_code == 200, given.text
    assert (await served.call(given.json()["access_token"], "look")).status_code == 200
    assert (await token(served, "robot", SECRET + "x")).status_code == 401


async def test_a_removed_clients_token_is_refused_at_the_next_call(served: Stack, upstream: RecordingUpstream) -> None:
    new = NewClient("second", "acme", ClientKind.AGENT, ClientAuth.CLIENT_SECRET, agent=AgentId("acme", "robot"))
    made = await admin(served).add(new, {"acme"}, served.state.settings.clients, {})
    assert made.client_secret is not None
    access = (await token(served, "second", made.client_secret)).json()["access_token"]
    assert (await served.call(access, "look")).status_code == 200
    before = len(upstream.seen)
    await admin(served).remove("second", served.state.settings.clients)
    assert (await served.call(access, "look")).status_code == 401
    assert len(upstream.seen) == before
    assert (await token(served, "second", made.client_secret)).json()["error"] == "invalid_client"
    # The agent's other client is untouched.
    assert (await token(served, "robot", SECRET)).status_code == 200


async def test_an_id_that_is_free_again_does_not_bring_old_tokens_back(served: Stack) -> None:
    new = NewClient("second", "acme", ClientKind.AGENT, ClientAuth.CLIENT_SECRET, agent=AgentId("acme", "robot"))
    made = await admin(served).add(new, {"acme"}, {}, {})
    assert made.client_secret is not None
    access = (await token(served, "second", made.client_secret)).json()["access_token"]
    await admin(served).remove("second", {})
    await admin(served).add(new, {"acme"}, {}, {})
    assert (await served.call(access, "look")).status_code == 401


async def test_nobody_registers_unless_it_is_turned_on(served: Stack) -> None:
    metadata = f"{served.url}/.well-known/oauth-authorization-server"
    assert (await served.http.post(f"{served.url}/register", json=CALLBACK)).status_code == 404
    assert "registration_endpoint" not in (await served.http.get(metadata)).json()
    settings = json.loads((served.directory / "twogate.yaml").read_text())
    on = copy.deepcopy(settings)
    on["registration"] = {"mode": "open", "tenant": "acme"}
    on["cimd"] = [{"domain": "apps.example.com", "tenant": "acme"}]
    served.adopt(on)
    said = (await served.http.get(metadata)).json()
    assert said["registration_endpoint"] == f"{served.url}/register"
    assert said["client_id_metadata_document_supported"] is True
    assert (await served.http.post(f"{served.url}/register", json=CALLBACK)).status_code == 201
    served.adopt(settings)
    assert (await served.http.post(f"{served.url}/register", json=CALLBACK)).status_code == 404


async def test_a_client_that_left_the_configuration_is_out(served: Stack) -> None:
    settings = json.loads((served.directory / "twogate.yaml").read_text())
    access = (await token(served, "robot", SECRET)).json()["access_token"]
    del settings["clients"]
    settings["agents"]["acme/robot"]["bindings"] = [{"issuer": "embedded", "client_id": "other"}]
    served.adopt(settings)
    assert (await token(served, "robot", SECRET)).json()["error"] == "invalid_client"
    assert (await served.call(access, "look")).status_code == 401


def test_a_client_cannot_be_declared_for_an_agent_that_is_not_bound_to_it(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    settings = configuration(tmp_path, 8080, upstream)
    settings["clients"]["intruder"] = settings["clients"].pop("robot")
    with pytest.raises(ConfigError, match="is not bound to this client"):
        parse_settings(json.dumps(settings), tmp_path / "twogate.yaml")
