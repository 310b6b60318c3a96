"""Two OAuth clients that nobody here wrote, oauth4webapi and openid-client, get tokens in every way and use them.

Both check what they are answered against the standards, and fail at what does not fit: `iss` and `state` of a response
(RFC 9207), PKCE, token types, nonces of DPoP proofs, statuses and content types. A person logs in and decides on the
real pages. The real MCP server behind the gateway says whether a token was good.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from peers.oauthworld import CALL, NAME, SAID, SCOPE, SERVER, TASK, OAuthWorld, node_flow, oauth_world
from peers.person import Person
from peers.servers import everything_server

pytestmark = pytest.mark.peer

LIBRARIES = ("oauth4webapi", "openid-client")
NATIVE = "http://127.0.0.1:7777/callback"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthWorld]:
    with everything_server() as url, oauth_world(tmp_path_factory.mktemp("twogate"), url) as made:
        yield made


@pytest.fixture
def person(world: OAuthWorld) -> Iterator[Person]:
    with world.person() as somebody:
        yield somebody


def claims(tokens: dict[str, Any]) -> dict[str, Any]:
    """The claims of an access token, which its client need not look at."""
    found: dict[str, Any] = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    return found


def assert_used(answer: dict[str, Any]) -> None:
    """The MCP server behind the gateway answered."""
    assert answer["status"] == 200, answer
    assert SAID in answer["body"]


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_public_client_by_code_and_pkce_and_its_token_is_used_and_refreshed(
    world: OAuthWorld, person: Person, library: str
) -> None:
    seen = await node_flow(
        world, library, person, flow="code", client=world.client("native"), redirect_uri=NATIVE, scope=SCOPE,
        call=CALL, refresh=True,
    )  # fmt: skip
    assert_used(seen["used"])
    assert_used(seen["usedAgain"])
    first, second = claims(seen["tokens"]), claims(seen["refreshed"])
    assert (first["client_id"], first["aud"], first["scope"]) == ("native", world.resource, SCOPE)
    assert first["sub"] == second["sub"] != "native"
    assert seen["tokens"]["refresh_token"] != seen["refreshed"]["refresh_token"]
    consent = person.seen[-1]
    for told in ("Acme Code", "127.0.0.1", SERVER, TASK):
        assert told in consent


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("post", [False, True])
async def test_a_client_with_a_secret_pushes_its_request_and_takes_its_token_back(
    world: OAuthWorld, person: Person, library: str, post: bool
) -> None:
    client = {**world.client("web"), "post": post}
    seen = await node_flow(
        world, library, person, flow="code", client=client, par=True, scope=SCOPE, task=TASK, call=CALL, refresh=True,
        introspect=True,
    )  # fmt: skip
    assert_used(seen["used"])
    assert_used(seen["usedAgain"])
    assert seen["tokens"]["authorization_details"] == [{"type": "mcp_session", "task": TASK}]
    assert seen["introspected"]["active"] is True
    assert (seen["introspected"]["client_id"], seen["introspected"]["aud"]) == ("web", world.resource)
    assert seen["after"] == {"active": False}
    assert seen["usedAfter"]["status"] == 401


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_key_is_proven_at_every_step_from_the_pushed_request_to_the_call(
    world: OAuthWorld, person: Person, library: str
) -> None:
    seen = await node_flow(
        world, library, person, flow="code", client=world.client("native"), redirect_uri=NATIVE, scope=SCOPE,
        par=True, dpop=True, call=CALL, refresh=True,
    )  # fmt: skip
    assert seen["tokens"]["token_type"].lower() == "dpop"
    assert claims(seen["tokens"])["cnf"] == claims(seen["refreshed"])["cnf"]
    assert_used(seen["used"])
    assert_used(seen["usedAgain"])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dpop", [False, True])
async def test_an_agent_by_its_key_alone(world: OAuthWorld, person: Person, library: str, dpop: bool) -> None:
    seen = await node_flow(
        world, library, person, flow="client_credentials", client=world.client("robot"), dpop=dpop, scope=SCOPE,
        call=CALL, introspect=not dpop,
    )  # fmt: skip
    assert_used(seen["used"])
    assert claims(seen["tokens"])["sub"] == "robot"
    assert ("cnf" in claims(seen["tokens"])) is dpop
    if not dpop:
        assert (seen["introspected"]["active"], seen["after"]) == (True, {"active": False})
        assert seen["usedAfter"]["status"] == 401


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_device_waits_for_its_person(world: OAuthWorld, person: Person, library: str) -> None:
    seen = await node_flow(
        world, library, person, flow="device", client=world.client("cli"), scope=SCOPE, call=CALL, refresh=True
    )
    assert_used(seen["used"])
    assert_used(seen["usedAgain"])
    assert claims(seen["tokens"])["client_id"] == "cli"
    assert "Acme Terminal" in person.seen[-2]
    if library == "oauth4webapi":
        assert seen["first"] == "authorization_pending"
        assert seen["begun"]["verification_uri"] == f"{world.url}/device"


@pytest.mark.parametrize("library", LIBRARIES)
async def test_an_agent_exchanges_its_users_token_for_one_that_names_both(
    world: OAuthWorld, person: Person, library: str
) -> None:
    robot = world.client("robot")
    granted = await node_flow(world, library, person, flow="code", client=robot, scope=f"{SCOPE} files")
    subject = granted["tokens"]
    seen = await node_flow(
        world, library, person, flow="exchange", client=robot, scope=SCOPE, subject_token=subject["access_token"],
        call=CALL,
    )  # fmt: skip
    assert seen["tokens"]["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert "refresh_token" not in seen["tokens"]
    before, after = claims(subject), claims(seen["tokens"])
    assert after["sub"] == before["sub"]
    assert after["scope"] == SCOPE
    assert after["exp"] <= before["exp"]
    assert after["act"]["sub"]
    assert_used(seen["used"])


@pytest.mark.parametrize("library", LIBRARIES)
async def test_openid_discovery_leads_to_the_same_server(world: OAuthWorld, person: Person, library: str) -> None:
    seen = await node_flow(
        world, library, person, flow="client_credentials", client=world.client("robot"), scope=SCOPE, call=CALL,
        algorithm="oidc",
    )  # fmt: skip
    assert_used(seen["used"])


async def test_a_response_names_the_issuer_and_repeats_the_state(world: OAuthWorld, person: Person) -> None:
    seen = await node_flow(
        world, "oauth4webapi", person, flow="code", client=world.client("native"), redirect_uri=NATIVE, scope=SCOPE
    )
    assert seen["response"].keys() == {"code", "state", "iss"}
    assert seen["response"]["iss"] == world.url


def test_the_trail_names_the_person_the_clients_and_no_token(world: OAuthWorld) -> None:
    """Runs last in this file: all of the above is on the trail."""
    events = world.gateway.events()
    issued = {event["client"] for event in events if event["kind"] == "token.issued"}
    granted = {event["client"] for event in events if event["kind"] == "authorization.granted"}
    assert issued >= {"native", "web", "robot", "cli"}
    assert granted >= {"native", "web", "cli"}
    assert NAME not in {event.get("user") for event in events}
