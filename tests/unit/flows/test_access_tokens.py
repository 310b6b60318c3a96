"""What every grant issues: the token says what was granted, as it holds now."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from sqlalchemy import insert, update

from tokenlab import FILES, ISSUER, REPORTER, Lab, open_lab
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId
from twogate.flows.authserver.access_tokens import Issued
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource, SecretDigest
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.engine import writing
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.tables import users

AGENT = Agent(REPORTER, "reader", ("review", "write"))
CLIENT = Client("reporter", "acme", REPORTER, ClientAuth.CLIENT_SECRET, (SecretDigest("ab" * 32),))
HOST_AGENT = Agent(AgentId("acme", PUBLIC_CLIENT), "reader", ("review",))
HOST = msgspec.structs.replace(CLIENT, client_id="desktop", kind=ClientKind.HOST, agent=HOST_AGENT.id)
GRANTED = Authorization("acme", "reporter", FILES, ("reports",))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[Lab]:
    async with open_lab(tmp_path) as running:
        engine = open_engine(f"sqlite:///{tmp_path / 'twogate.db'}")
        async with writing(engine) as connection:
            await connection.execute(
                insert(users).values(
                    tenant="acme", subject="u-1", name="alice", display_name="", roles='["reader"]',
                    groups='["finance"]', password_hash="", provider="", created_at=1,
                )
            )  # fmt: skip
        await engine.dispose()
        yield running


async def issue(lab: Lab, granted: Authorization = GRANTED, client: Client = CLIENT, **more: Any) -> Issued:
    agent = AGENT if client is CLIENT else HOST_AGENT
    return await lab.tokens.issue(granted, client, agent, method="none", address="203.0.113.7", **more)


async def refused(lab: Lab, granted: Authorization, client: Client = CLIENT, **more: Any) -> ErrorCode:
    before = len([event for event in lab.audit.events if event.kind is EventKind.TOKEN_ISSUED])
    with pytest.raises(GateError) as caught:
        await issue(lab, granted, client, **more)
    assert len([event for event in lab.audit.events if event.kind is EventKind.TOKEN_ISSUED]) == before
    return caught.value.code


def claims(issued: Issued) -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(issued.token, options={"verify_signature": False})
    return decoded


async def test_a_token_for_a_user_names_the_user_with_roles_and_groups_as_they_are_now(lab: Lab) -> None:
    said = claims(await issue(lab, msgspec.structs.replace(GRANTED, user="u-1"), grant_id="g-1"))
    assert (said["sub"], said["user"], said["client_id"]) == ("u-1", "u-1", "reporter")
    assert (said["roles"], said["groups"], said["grant_id"]) == (["reader"], ["finance"], "g-1")
    # A registered agent is found by its binding, so the token does not name it.
    assert "agent" not in said
    assert (lab.audit.last.user, lab.audit.last.user_issuer, lab.audit.last.client) == ("u-1", ISSUER, "reporter")


async def test_a_user_who_is_gone_or_disabled_gets_nothing(lab: Lab, tmp_path: Path) -> None:
    assert await refused(lab, msgspec.structs.replace(GRANTED, user="u-2")) is ErrorCode.GRANT_INVALID
    assert await refused(lab, msgspec.structs.replace(GRANTED, user="")) is ErrorCode.GRANT_INVALID
    engine = open_engine(f"sqlite:///{tmp_path / 'twogate.db'}")
    async with writing(engine) as connection:
        await connection.execute(update(users).values(disabled_at=5))
    await engine.dispose()
    assert await refused(lab, msgspec.structs.replace(GRANTED, user="u-1")) is ErrorCode.GRANT_INVALID


async def test_what_was_granted_to_one_client_is_nothing_to_another(lab: Lab) -> None:
    other = msgspec.structs.replace(CLIENT, client_id="other")
    assert await refused(lab, GRANTED, other) is ErrorCode.GRANT_INVALID
    abroad = msgspec.structs.replace(GRANTED, tenant="globex")
    assert await refused(lab, abroad) is ErrorCode.GRANT_INVALID


async def test_resources_and_scopes_are_those_of_now(lab: Lab) -> None:
    lab.tokens.settings = msgspec.structs.replace(lab.tokens.settings, scopes=frozenset({"admin"}))
    issued = await issue(lab, msgspec.structs.replace(GRANTED, scopes=("reports", "admin")))
    assert (issued.scopes, claims(issued)["scope"]) == (("admin",), "admin")
    lab.tokens.settings = msgspec.structs.replace(lab.tokens.settings, resources={})
    assert await refused(lab, GRANTED) is ErrorCode.RESOURCE_INVALID


async def test_a_token_never_outlives_what_it_comes_from(lab: Lab) -> None:
    now = lab.clock.now()
    assert (await issue(lab)).expires_in == 300
    assert (await issue(lab, not_after=now + 60)).expires_in == 60
    ending = msgspec.structs.replace(GRANTED, ends_at=now + 10)
    assert (await issue(lab, ending, not_after=now + 60)).expires_in == 10
    assert claims(await issue(lab, ending))["exp"] == now + 10
    assert await refused(lab, msgspec.structs.replace(GRANTED, ends_at=now)) is ErrorCode.GRANT_INVALID


async def test_a_task_opens_the_session_that_the_token_names(lab: Lab) -> None:
    granted = msgspec.structs.replace(GRANTED, task="review")
    first, second = claims(await issue(lab, granted)), claims(await issue(lab, granted))
    assert first["authorization_details"] == [{"type": "mcp_session", "task": "review"}]
    # The same task again is the same session.
    assert first["sid"] == second["sid"] != ""
    opened = [event for event in lab.audit.events if event.kind is EventKind.SESSION_OPENED]
    assert [(event.session, event.task, event.agent) for event in opened] == [(first["sid"], "review", "reporter")]
    # Another one beside it is what the agent may not do.
    assert await refused(lab, msgspec.structs.replace(GRANTED, task="write")) is ErrorCode.TASK_LIMIT
    assert await refused(lab, msgspec.structs.replace(GRANTED, task="other")) is ErrorCode.TASK_UNKNOWN


async def test_the_session_of_a_user_is_not_the_agents_own(lab: Lab) -> None:
    alone = claims(await issue(lab, msgspec.structs.replace(GRANTED, task="review")))
    for_user = claims(await issue(lab, msgspec.structs.replace(GRANTED, task="review", user="u-1")))
    assert alone["sid"] != for_user["sid"]


async def test_a_client_that_is_no_agent_acts_as_the_one_its_token_names(lab: Lab) -> None:
    granted = msgspec.structs.replace(GRANTED, client_id="desktop", user="u-1")
    assert claims(await issue(lab, granted, HOST))["agent"] == PUBLIC_CLIENT


async def test_so_does_an_agent_whose_client_no_operator_registered(lab: Lab) -> None:
    client = msgspec.structs.replace(CLIENT, source=ClientSource.DOCUMENT)
    issued = await lab.tokens.issue(GRANTED, client, AGENT, method="none", address="")
    assert claims(issued)["agent"] == "reporter"


async def test_operations_is_a_resource_for_those_who_mint_only(lab: Lab) -> None:
    operations = msgspec.structs.replace(GRANTED, resource=f"{ISSUER}/operations")
    assert await refused(lab, operations) is ErrorCode.RESOURCE_INVALID
    host = msgspec.structs.replace(operations, client_id="desktop")
    assert claims(await issue(lab, host, HOST))["aud"] == f"{ISSUER}/operations"
    authorizer = msgspec.structs.replace(HOST, kind=ClientKind.AUTHORIZER, agent=None)
    assert lab.tokens.settings.resources_of(authorizer) == {f"{ISSUER}/operations"}


async def test_a_bound_token_says_to_which_key_and_is_no_bearer_token(lab: Lab) -> None:
    issued = await issue(lab, proof="thumb")
    assert claims(issued)["cnf"] == {"jkt": "thumb"}
    assert issued.as_json()["token_type"] == "DPoP"
    assert (await issue(lab)).as_json()["token_type"] == "Bearer"


async def test_who_acts_for_the_user_is_kept(lab: Lab) -> None:
    act = {"sub": "exchanger", "act": {"sub": "first"}}
    assert claims(await issue(lab, msgspec.structs.replace(GRANTED, act=act)))["act"] == act


async def test_a_persons_token_names_the_client_that_may_exchange_it(lab: Lab) -> None:
    client = msgspec.structs.replace(CLIENT, may_act="exchanger")
    for_user = await lab.tokens.issue(
        msgspec.structs.replace(GRANTED, user="u-1"), client, AGENT, method="none", address=""
    )
    assert claims(for_user)["may_act"] == {"sub": "exchanger"}
    alone = await lab.tokens.issue(GRANTED, client, AGENT, method="none", address="")
    assert "may_act" not in claims(alone)


async def test_a_token_that_cannot_be_recorded_is_not_issued(lab: Lab) -> None:
    lab.audit.broken = True
    with pytest.raises(GateError) as caught:
        await issue(lab)
    assert caught.value.code is ErrorCode.AUDIT_UNAVAILABLE


async def test_nothing_that_may_be_logged_shows_the_token(lab: Lab) -> None:
    issued = await issue(lab)
    assert issued.token not in repr(issued)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": None},
        {"kind": ClientKind.AUTHORIZER},
        {"kind": ClientKind.PUBLIC},
        {"agent": AgentId("acme", PUBLIC_CLIENT)},
        {"agent": AgentId("globex", "reporter")},
        {"client_id": ""},
        {"auth": ClientAuth.NONE},
        {"auth": ClientAuth.NONE, "secret_digests": ()},
        {"auth": ClientAuth.PRIVATE_KEY_JWT},
        {"auth": ClientAuth.PRIVATE_KEY_JWT, "secret_digests": ()},
        {"jwks": "{}"},
        {"jwks_uri": "https://keys.example.com"},
        {"secret_digests": ()},
        {"secret_digests": (SecretDigest("ab" * 32),) * 3},
    ],
)
def test_a_client_that_contradicts_itself_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"client|agent|keys"):
        msgspec.structs.replace(CLIENT, **changes)
