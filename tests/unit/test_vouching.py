"""Workloads, identity assertions and exchange through a whole server: from the configuration to a call that runs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exchangelab import BEARER, DOMAIN, EXCHANGE, IDP, SERVICE_ACCOUNT, SPIFFE_ID, Voucher
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from tokenlab import SECRET
from twogate.core.oauth.exchange import ACCESS_TOKEN

PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"


@dataclass
class World:
    """A gateway, a trust domain whose keys are in a file, and an issuer that tests make a cluster or a login."""

    stack: Stack
    settings: dict[str, Any]
    domain: Voucher
    bundle: Path
    issuer: TestIssuer
    upstream: RecordingUpstream

    def svid(self, **changes: Any) -> str:
        now = int(time.time())
        claims = {"sub": SPIFFE_ID, "aud": [self.stack.url], "iat": now, "exp": now + 300, **changes}
        return self.domain.sign(claims, {"typ": "JWT"})

    def service_account(self) -> str:
        account = {"namespace": "prod", "serviceaccount": {"name": "robot", "uid": "1"}}
        claims: dict[str, Any] = {"sub": SERVICE_ACCOUNT, "azp": None, "tenant": None, "kubernetes.io": account}
        return self.issuer.token(self.stack.url, kid="k1", header={"typ": None}, **claims)

    async def token(self, **form: str) -> Any:
        form = {"resource": self.stack.resource(), **form}
        response = await self.stack.http.post(f"{self.stack.url}/token", data=form)
        return response.json()


@pytest.fixture
async def world(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[World]:
    domain, bundle, secret = Voucher("jwt-svid"), tmp_path / "bundle.json", tmp_path / "secret"
    bundle.write_bytes(domain.jwks)
    secret.write_text(SECRET)
    secret.chmod(0o600)
    settings = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, None)
    settings["workloads"] = [
        {
            "issuer": DOMAIN,
            "kind": "spiffe",
            "algorithms": ["ES256"],
            "tenants": ["acme"],
            "jwks_file": str(bundle),
        },
        {"issuer": issuer.url, "kind": "kubernetes", "algorithms": ["ES256"], "tenants": ["acme"]},
    ]
    settings["agents"] = {
        "acme/reporter": {
            "role": "reader",
            "tasks": ["report"],
            "default_task": "report",
            "bindings": [{"issuer": DOMAIN, "subject": SPIFFE_ID}, {"issuer": issuer.url, "subject": SERVICE_ACCOUNT}],
        },
        "acme/helper": {
            "role": "reader",
            "tasks": ["report"],
            "default_task": "report",
            "bindings": [{"issuer": "embedded", "client_id": "helper"}],
        },
    }
    async with running(tmp_path, settings) as stack:
        yield World(stack, settings, domain, bundle, issuer, upstream)


async def test_a_spiffe_workload_calls_a_tool_without_being_a_client(world: World) -> None:
    answer = await world.token(grant_type=BEARER, assertion=world.svid())
    response = await world.stack.call(answer["access_token"], "look")
    assert response.status_code == 200
    intent = next(event for event in world.stack.events() if event["kind"] == "call.intent")
    assert (intent["tenant"], intent["agent"]) == ("acme", "reporter")


async def test_so_does_a_pod_whose_clusters_keys_are_discovered(world: World) -> None:
    token = world.service_account()
    answer = await world.token(grant_type=BEARER, assertion=token)
    assert (await world.stack.call(answer["access_token"], "look")).status_code == 200


async def test_a_rotated_bundle_holds_from_the_next_request_on(world: World) -> None:
    before, world.domain = world.domain, Voucher("jwt-svid")
    world.bundle.write_bytes(world.domain.jwks)
    assert "access_token" in await world.token(grant_type=BEARER, assertion=world.svid())
    world.domain = before
    answer = await world.token(grant_type=BEARER, assertion=world.svid())
    assert answer["error"] == "invalid_grant"
    assert world.stack.reasons()[-1] == "signature_invalid"


async def test_without_the_bundle_nobody_gets_a_token(world: World) -> None:
    world.bundle.unlink()
    answer = await world.token(grant_type=BEARER, assertion=world.svid())
    assert answer["error"] == "temporarily_unavailable"


async def test_reloading_without_the_binding_ends_the_tokens_that_came_by_it(world: World) -> None:
    token = (await world.token(grant_type=BEARER, assertion=world.svid()))["access_token"]
    assert (await world.stack.call(token, "look")).status_code == 200
    world.settings["agents"]["acme/reporter"]["bindings"].pop(0)
    world.stack.adopt(world.settings)
    assert (await world.stack.call(token, "look")).status_code == 401
    assert world.stack.reasons()[-1] == "agent_unbound"
    assert (await world.token(grant_type=BEARER, assertion=world.svid()))["error"] == "invalid_grant"


async def test_a_reload_keeps_the_keys_that_were_fetched(world: World) -> None:
    token = world.service_account()
    assert "access_token" in await world.token(grant_type=BEARER, assertion=token)
    fetched = len(world.issuer.fetches)
    world.stack.adopt(world.settings)
    assert "access_token" in await world.token(grant_type=BEARER, assertion=token)
    assert len(world.issuer.fetches) == fetched


@pytest.mark.parametrize(
    ("change", "grants", "profile"),
    [
        ({}, {EXCHANGE, BEARER}, False),
        ({"workloads": None, "agents": None}, {EXCHANGE}, False),
        (
            {"identity_assertions": [{"issuer": IDP, "tenant": "acme", "algorithms": ["ES256"]}]},
            {EXCHANGE, BEARER},
            True,
        ),
    ],
)
async def test_metadata_names_what_the_configuration_lets_in(
    world: World, change: dict[str, Any], grants: set[str], profile: bool
) -> None:
    settings = {name: value for name, value in {**world.settings, **change}.items() if value is not None}
    world.stack.adopt(settings)
    response = await world.stack.http.get(f"{world.stack.url}/.well-known/oauth-authorization-server")
    document = response.json()
    assert {grant for grant in document["grant_types_supported"] if grant in (EXCHANGE, BEARER)} == grants
    assert document.get("authorization_grant_profiles_supported") == ([PROFILE] if profile else None)


async def test_without_anybody_who_vouches_the_grant_does_not_exist(world: World) -> None:
    world.stack.adopt({name: value for name, value in world.settings.items() if name not in ("workloads", "agents")})
    answer = await world.token(grant_type=BEARER, assertion=world.svid())
    assert answer["error"] == "unsupported_grant_type"


async def test_only_issuers_that_may_give_subject_tokens_are_asked(world: World) -> None:
    settings = json.loads(json.dumps(world.settings))
    settings.pop("workloads")
    settings["agents"].pop("acme/reporter")
    settings["issuers"] = [
        {
            "issuer": world.issuer.url,
            "algorithms": ["ES256"],
            "tenants": ["acme"],
            "jwks_uri": f"{world.issuer.url}/jwks",
            "claims": {"agent": "/azp", "tenant": "/tenant", "user": "/sub"},
        }
    ]
    settings["agents"]["acme/helper"]["bindings"].append({"issuer": world.issuer.url, "client_id": "helper-there"})
    settings["clients"] = {
        "helper": {
            "tenant": "acme",
            "kind": "agent",
            "agent": "acme/helper",
            "auth": "client_secret",
            "secret_file": str(world.stack.directory / "secret"),
            "grants": ["token_exchange"],
        }
    }
    form = {
        "grant_type": EXCHANGE,
        "subject_token": world.issuer.token("api://x", azp="helper-there", sub="alice"),
        "subject_token_type": ACCESS_TOKEN,
        "client_id": "helper",
        "client_secret": SECRET,
    }
    for exchange, reason in ((False, "issuer_unknown"), (True, "grant_invalid")):
        settings["issuers"][0]["exchange"] = exchange
        world.stack.adopt(settings)
        assert (await world.token(**form))["error"] == "invalid_request"
        assert world.stack.reasons()[-1] == reason
