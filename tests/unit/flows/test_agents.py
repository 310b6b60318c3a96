"""Adding and disabling agents: what is checked, shown once, stored and written down, in which order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest

from gatelab import AGENT, NOW, POLICY, ROBOT, CountingRng, FakeClock, RecordingAudit
from harness.issuer import new_key
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.agents import AgentAdmin, Credentials, NewAgent
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.registry import Registry, RegistryState

ISSUER = "https://mcp.example.com"
NEW = AgentId("acme", "new")
JWKS = json.dumps({"keys": [new_key().as_dict(private=False)]})
MADE_KEY = ("-----BEGIN PRIVATE KEY-----", JWKS)
ASKED = NewAgent(NEW, ClientAuth.CLIENT_SECRET, "reader", ("report",), "report")


class Lab:
    """The use cases, with stores that keep what they get."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.audit = RecordingAudit(self.journal)
        self.added: list[tuple[Client, Agent | None, Sequence[Binding]]] = []
        self.state = RegistryState({}, {}, frozenset())
        self.revision = 1
        registry = Registry(self, self, {ROBOT: AGENT}, {})
        self.admin = AgentAdmin(
            registry=registry,
            store=self,
            clients=self,
            audit=self.audit,
            clock=FakeClock(),
            rng=CountingRng(),
            new_key=lambda: MADE_KEY,
        )

    def current(self) -> int:
        return self.revision

    async def read(self) -> int:
        return self.current()

    async def enable_agent(self, agent: AgentId) -> bool:
        raise NotImplementedError

    async def load(self) -> RegistryState:
        return self.state

    async def add_agent(self, agent: Agent, bindings: Sequence[Binding], now: int) -> None:
        raise NotImplementedError

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        self.journal.append("disabled")
        was = agent in self.state.disabled
        self.state = msgspec.structs.replace(self.state, disabled=self.state.disabled | {agent})
        self.revision += 1
        return not was

    async def add(self, client: Client, agent: Agent | None, bindings: Sequence[Binding], now: int) -> None:
        self.journal.append("stored")
        self.added.append((client, agent, bindings))

    async def get(self, client_id: str) -> Client | None:
        return next((client for client, _, _ in self.added if client.client_id == client_id), None)

    async def list(self, tenant: str | None = None) -> Sequence[Client]:
        raise NotImplementedError

    async def existing(self, client_ids: Collection[str]) -> Sequence[str]:
        raise NotImplementedError

    async def remove(self, client_id: str, bindings: Sequence[Binding]) -> bool:
        raise NotImplementedError

    async def touch(self, client_id: str, now: int) -> None:
        raise NotImplementedError

    async def ask(self, new: NewAgent = ASKED, bound: dict[Binding, AgentId] | None = None) -> Credentials:
        return await self.admin.add(new, POLICY, {ROBOT: AGENT}, bound or {}, ISSUER)

    async def wrong(self, new: NewAgent, bound: dict[Binding, AgentId] | None = None) -> str:
        with pytest.raises(GateError) as refusal:
            await self.ask(new, bound)
        assert refusal.value.code is ErrorCode.REQUEST_MALFORMED
        assert (self.added, self.journal) == ([], [])
        return refusal.value.debug


@pytest.fixture
def lab() -> Lab:
    return Lab()


def asked(**changes: Any) -> NewAgent:
    return msgspec.structs.replace(ASKED, **changes)


async def test_a_new_agent_gets_a_secret_of_which_only_the_digest_is_kept(lab: Lab) -> None:
    credentials = await lab.ask()
    ((client, agent, bindings),) = lab.added
    assert credentials.client_secret is not None
    assert [digest.digest for digest in client.secret_digests] == [
        hashlib.sha256(credentials.client_secret.encode()).hexdigest()
    ]
    assert (client.client_id, client.agent, client.tenant, client.jwks) == ("acme.new", NEW, "acme", None)
    assert agent == Agent(NEW, "reader", ("report",), "report")
    assert bindings == [Binding(Method.JWT, ISSUER, "acme.new")]
    assert credentials.client_secret not in repr(credentials) + repr(client) + str(lab.audit.events)


async def test_it_is_written_down_before_it_is_stored(lab: Lab) -> None:
    await lab.ask()
    assert lab.journal == ["agent.added", "stored"]
    lab.audit.refuses = frozenset({EventKind.AGENT_ADDED})
    with pytest.raises(GateError) as refusal:
        await lab.ask(asked(id=AgentId("acme", "second")))
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert len(lab.added) == 1


async def test_an_agent_by_key_gets_one_made_or_brings_its_own_public_one(lab: Lab) -> None:
    made = await lab.ask(asked(auth=ClientAuth.PRIVATE_KEY_JWT))
    assert (made.private_key_pem, made.client_secret) == (MADE_KEY[0], None)
    brought = await lab.ask(asked(id=AgentId("acme", "second"), auth=ClientAuth.PRIVATE_KEY_JWT, jwks=JWKS))
    assert (brought.private_key_pem, brought.client_secret) == (None, None)
    assert [client.jwks for client, _, _ in lab.added] == [JWKS, JWKS]
    assert all(client.secret_digests == () for client, _, _ in lab.added)
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": AgentId("globex", "new")}, "there is no tenant 'globex'; tenants: acme"),
        ({"role": None}, "--role must be one of: admin, analyst, executor, reader"),
        ({"role": "ghost"}, "--role must be one of"),
        ({"tasks": ()}, "--task must name at least one task"),
        ({"tasks": ("report", "ghost")}, "(not 'ghost')"),
        ({"default_task": "edit"}, "--default-task must be one of the agent's tasks"),
        ({"auth": ClientAuth.PRIVATE_KEY_JWT, "jwks": "{"}, "the public keys are not a JWK set"),
        ({"auth": ClientAuth.PRIVATE_KEY_JWT, "jwks": '{"keys":[]}'}, "holds no usable public key"),
        (
            {"auth": ClientAuth.PRIVATE_KEY_JWT, "jwks": json.dumps({"keys": [new_key().as_dict(private=True)]})},
            "holds no usable public key",
        ),
    ],
    ids=["tenant", "no role", "role", "no task", "task", "default task", "no JWKS", "no keys", "private key"],
)
async def test_a_wrong_request_says_what_is_wrong_and_changes_nothing(
    lab: Lab, changes: dict[str, Any], says: str
) -> None:
    assert says in await lab.wrong(asked(**changes))


async def test_an_agent_of_the_configuration_keeps_role_tasks_and_client_id_from_there(lab: Lab) -> None:
    bound = {Binding(Method.JWT, ISSUER, "robot-client"): ROBOT}
    credentials = await lab.ask(NewAgent(ROBOT, ClientAuth.CLIENT_SECRET), bound)
    assert credentials.client_id == "robot-client"
    ((client, agent, bindings),) = lab.added
    assert (client.client_id, client.agent, agent, list(bindings)) == ("robot-client", ROBOT, None, [])


@pytest.mark.parametrize("changes", [{"role": "admin"}, {"tasks": ("edit",)}, {"default_task": "edit"}], ids=str)
async def test_the_command_line_cannot_change_an_agent_of_the_configuration(lab: Lab, changes: dict[str, Any]) -> None:
    new = NewAgent(ROBOT, ClientAuth.CLIENT_SECRET)
    bound = {Binding(Method.JWT, ISSUER, "robot-client"): ROBOT}
    assert "declared in the configuration" in await lab.wrong(msgspec.structs.replace(new, **changes), bound)


@pytest.mark.parametrize("names", [[], ["a", "b"]], ids=["none", "two"])
async def test_an_agent_of_the_configuration_needs_exactly_one_client_id(lab: Lab, names: list[str]) -> None:
    bound = {Binding(Method.JWT, ISSUER, name): ROBOT for name in names}
    bound[Binding(Method.JWT, "https://other.example.com", "c")] = ROBOT
    bound[Binding(Method.JWT, ISSUER, "d")] = AgentId("acme", "other")
    assert "exactly one binding" in await lab.wrong(NewAgent(ROBOT, ClientAuth.CLIENT_SECRET), bound)


async def test_a_client_id_that_the_configuration_gave_another_agent_is_not_given_again(lab: Lab) -> None:
    assert "rename one" in await lab.wrong(ASKED, {Binding(Method.JWT, ISSUER, "acme.new"): ROBOT})


async def test_disabling_is_written_down_first_and_says_whether_it_changed_anything(lab: Lab) -> None:
    assert await lab.admin.disable(ROBOT) is True
    assert lab.journal == ["agent.disabled", "disabled"]
    assert (lab.audit.events[0].agent, lab.audit.events[0].at) == ("robot", NOW * 1_000_000)
    assert await lab.admin.disable(ROBOT) is False


async def test_disabling_nobody_is_an_error(lab: Lab) -> None:
    with pytest.raises(GateError) as refusal:
        await lab.admin.disable(AgentId("acme", "ghost"))
    assert refusal.value.code is ErrorCode.NOT_FOUND
    assert lab.journal == []


async def test_a_client_that_exists_is_refused_before_anything_is_written_down() -> None:
    office = Lab()
    bound = {Binding(Method.JWT, ISSUER, "robot-client"): ROBOT}
    again = NewAgent(ROBOT, ClientAuth.CLIENT_SECRET)
    await office.ask(again, bound)
    journal = list(office.journal)
    with pytest.raises(GateError) as refusal:
        await office.ask(again, bound)
    assert refusal.value.code is ErrorCode.REQUEST_MALFORMED
    assert office.journal == journal
