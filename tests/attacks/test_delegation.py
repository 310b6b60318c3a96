"""Tokens by which an agent acts for somebody (`act`, RFC 8693 section 4.1): both must be allowed what is called.

Real tokens of an external issuer and of the embedded server, the real gateway; a refusal proves that the upstream saw
nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchangelab import ALICE, ExchangeLab, open_exchange_lab
from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from twogate.config import ConfigError
from twogate.core.jose.claims import MAX_STRING
from twogate.core.oauth.exchange import MAX_ACTORS


@pytest.fixture
async def direct() -> AsyncIterator[TestIssuer]:
    """Another issuer, whose tokens name their agent in `azp`, as tokens without delegation do."""
    async with TestIssuer() as made:
        yield made


@pytest.fixture
def settings(tmp_path: Path, issuer: TestIssuer, direct: TestIssuer, upstream: RecordingUpstream) -> dict[str, Any]:
    """The first issuer exchanges tokens: its agents are actors, its users subjects. The role of a user is a claim."""
    made = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    [entry] = made["issuers"]
    claims = {"agent": "/act/sub", "user": "/sub", "role": "/role", "groups": "/groups"}
    entry |= {"roles": ["reader", "executor", "nothing"], "claims": claims}
    made["issuers"].append(
        {
            **entry, "issuer": direct.url, "jwks_uri": f"{direct.url}/jwks",
            "claims": {"agent": "/azp", "user": "/uid", "user_optional": True, "role": "/role"},
        }
    )  # fmt: skip
    made["roles"] = {
        "reader": {"allow": ["read"]}, "executor": {"allow": ["read", "search"]}, "nothing": {"allow": ["fetch"]},
    }  # fmt: skip
    made["groups"] = {"analysts": {"role": "executor"}}
    made["agents"] = {
        f"acme/{name}": {
            "role": role, "tasks": ["edit"], "default_task": "edit",
            "bindings": [{"issuer": at, "subject": name} for at in (issuer.url, direct.url)],
        }
        for name, role in {"robot": "executor", "clerk": "reader"}.items()
    }  # fmt: skip
    return made


@pytest.fixture
async def gateway(tmp_path: Path, settings: dict[str, Any]) -> AsyncIterator[Stack]:
    async with running(tmp_path, settings) as made:
        yield made


def delegated(issuer: TestIssuer, stack: Stack, actor: str = "robot", **claims: Any) -> str:
    """A token of alice, an executor, with which the actor acts for her."""
    every = {"sub": "alice", "role": "executor", "act": {"sub": actor}, "azp": None, **claims}
    return issuer.token(stack.resource(), **every)


async def assert_refused(
    stack: Stack, upstream: RecordingUpstream, token: str, reason: str, *, tool: str = "find"
) -> None:
    response = await stack.call(token, tool)
    assert (response.status_code, upstream.seen) == (403 if "permitted" in reason else 401, []), reason
    assert reason in stack.reasons()


async def test_what_both_may_is_called_and_both_are_named(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    assert (await gateway.call(delegated(issuer, gateway), "find")).status_code == 200
    assert upstream.calls == ["find"]
    [intent] = [event for event in gateway.events() if event["kind"] == "call.intent"]
    assert (intent["agent"], intent["user"], intent["user_issuer"]) == ("robot", "alice", issuer.url)


async def test_what_the_user_may_not_the_agent_may_not_for_them(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    for role in ("reader", "nothing", None):
        await assert_refused(gateway, upstream, delegated(issuer, gateway, role=role), "user_not_permitted")
    # A group stands in for the role; an unknown one grants nothing.
    grouped = delegated(issuer, gateway, role=None, groups=["x", "analysts"])
    await assert_refused(gateway, upstream, delegated(issuer, gateway, role=None, groups=["x"]), "user_not_permitted")
    assert (await gateway.call(grouped, "find")).status_code == 200


async def test_what_the_agent_may_not_no_user_lets_it(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    token = delegated(issuer, gateway, "clerk")
    await assert_refused(gateway, upstream, token, "role_not_permitted")
    assert (await gateway.call(token, "look")).status_code == 200
    upstream.seen.clear()
    await assert_refused(gateway, upstream, delegated(issuer, gateway, "stranger"), "agent_unbound")


async def test_an_agent_that_nobody_named_as_actor_is_none(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    for claims in ({"act": None}, {"act": None, "azp": "robot"}, {"act": None, "may_act": {"sub": "robot"}}):
        await assert_refused(gateway, upstream, delegated(issuer, gateway, **claims), "claim_missing")


ODD_ACTORS: Mapping[str, Any] = {
    "a name": "robot",
    "a list": [{"sub": "robot"}],
    "nobody": {},
    "nobody but a client": {"client_id": "robot", "azp": "robot"},
    "false": False,
    "a number": {"sub": 5},
    "empty": {"sub": ""},
    "a long name": {"sub": "r" * (MAX_STRING + 1)},
    "an unprintable name": {"sub": "robot\u0000"},
    "a nested name": {"sub": "robot", "act": "clerk"},
    "a nested list": {"sub": "robot", "act": []},
    "a nested nobody": {"sub": "robot", "act": {}},
    "a nested null": {"sub": "robot", "act": None},
    "an odd issuer": {"sub": "robot", "iss": ["x"]},
}


async def test_an_actor_that_is_not_one_refuses_the_token(
    gateway: Stack, issuer: TestIssuer, direct: TestIssuer, upstream: RecordingUpstream
) -> None:
    for what, act in ODD_ACTORS.items():
        for token in (
            delegated(issuer, gateway, act=act),
            direct.token(gateway.resource(), azp="robot", uid="alice", role="executor", act=act),
        ):
            response = await gateway.call(token, "find")
            assert (response.status_code, upstream.seen) == (401, []), what
    assert set(gateway.reasons()) == {"claim_invalid", "claim_missing"}


def chain(length: int) -> dict[str, Any]:
    """The robot, and before it others who acted."""
    actor: dict[str, Any] = {"sub": f"earlier-{length}"}
    for number in range(length - 2):
        actor = {"sub": f"earlier-{number}", "act": actor}
    return {"sub": "robot", "act": actor}


async def test_earlier_actors_decide_nothing_and_are_few(
    gateway: Stack, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    # Neither lends its rights: the clerk may not, whoever acted before it.
    lent = {"sub": "clerk", "act": {"sub": "robot"}}
    await assert_refused(gateway, upstream, delegated(issuer, gateway, act=lent), "role_not_permitted")
    await assert_refused(gateway, upstream, delegated(issuer, gateway, act=chain(MAX_ACTORS + 1)), "actor_refused")
    assert (await gateway.call(delegated(issuer, gateway, act=chain(MAX_ACTORS)), "find")).status_code == 200


async def test_the_actor_of_another_issuer_is_somebody_else(
    gateway: Stack, issuer: TestIssuer, direct: TestIssuer, upstream: RecordingUpstream
) -> None:
    for foreign in (direct.url, f"{issuer.url}/", "https://elsewhere.example"):
        act = {"sub": "robot", "iss": foreign}
        await assert_refused(gateway, upstream, delegated(issuer, gateway, act=act), "actor_refused")
    assert (await gateway.call(delegated(issuer, gateway, act={"sub": "robot", "iss": issuer.url}), "find")).is_success


async def test_where_the_agent_is_named_elsewhere_the_actor_must_be_the_same(
    gateway: Stack, direct: TestIssuer, upstream: RecordingUpstream
) -> None:
    def token(**claims: Any) -> str:
        return direct.token(gateway.resource(), azp="robot", uid="alice", role="executor", **claims)

    for actor in ("clerk", "stranger", "alice", "Robot"):
        await assert_refused(gateway, upstream, token(act={"sub": actor}), "actor_refused")
    assert (await gateway.call(token(act={"sub": "robot"}), "find")).status_code == 200
    assert (await gateway.call(token(), "find")).status_code == 200


async def test_whoever_acts_acts_for_a_user_and_not_for_nobody(
    gateway: Stack, direct: TestIssuer, upstream: RecordingUpstream
) -> None:
    # The subject is somebody else; without a user the agent alone would be judged, and may more.
    token = direct.token(gateway.resource(), azp="robot", sub="alice", act={"sub": "robot"})
    await assert_refused(gateway, upstream, token, "actor_refused")
    assert (await gateway.call(direct.token(gateway.resource(), azp="robot"), "find")).status_code == 200


async def test_may_act_is_no_actor(gateway: Stack, direct: TestIssuer, upstream: RecordingUpstream) -> None:
    token = direct.token(
        gateway.resource(), azp="clerk", uid="alice", role="executor", may_act={"sub": "robot"}, act={"sub": "clerk"}
    )
    await assert_refused(gateway, upstream, token, "role_not_permitted")


@pytest.mark.parametrize("name", ["agent", "user"])
async def test_an_earlier_actor_cannot_be_configured_as_the_one_that_counts(
    tmp_path: Path, settings: dict[str, Any], name: str
) -> None:
    settings["issuers"][0]["claims"][name] = "/act/act/sub"
    with pytest.raises(ConfigError, match="an earlier actor"):
        async with running(tmp_path, settings):
            pass


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ExchangeLab]:
    async with open_exchange_lab(tmp_path) as made:
        await made.allow()
        await made.allow("second")
        yield made


async def test_what_our_own_server_exchanges_names_both_to_gate_one(lab: ExchangeLab) -> None:
    once = (await lab.exchange(await lab.own())).json()["access_token"]
    principal = await lab.gateway(once)
    assert (principal.agent.id.agent, principal.user and principal.user.subject) == ("reporter", ALICE)
    # And through a chain of actors the last one is the agent.
    claims = jwt.decode(once, options={"verify_signature": False})
    assert claims["act"]["sub"] == claims["client_id"]
    twice = (await lab.exchange(once)).json()["access_token"]
    assert jwt.decode(twice, options={"verify_signature": False})["act"]["act"] == claims["act"]
    assert (await lab.gateway(twice)).agent.id.agent == "reporter"
