"""What a person is told before they allow something."""

from __future__ import annotations

import msgspec
import pytest

from tokenlab import StepClock
from twogate.core.access import Policy, Role, Tenant, ToolClass
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId
from twogate.flows.authserver.access_tokens import TokenSettings
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.consent_view import ConsentView, ConsentViews, ScopeWords, in_words
from twogate.flows.authserver.people import User

ISSUER = "https://mcp.example.com"
PUBLIC = AgentId("acme", PUBLIC_CLIENT)
AGENT = Agent(PUBLIC, "analyst", ("review", "report"))
ALICE = User("acme", "u-1", "alice", "Alice Example")
CLIENT = Client(
    "native",
    "acme",
    PUBLIC,
    ClientAuth.NONE,
    kind=ClientKind.PUBLIC,
    grants=frozenset({GrantType.AUTHORIZATION_CODE}),
    name="Acme Code",
)
POLICY = Policy(
    generation="g",
    classes={
        "files.read_file": ToolClass.READ,
        "files.write_file": ToolClass.WRITE,
        "files.resource:file:///**": ToolClass.READ,
        "files.resource:file:///secret/**": ToolClass.SECRETS,
        "git.git_log": ToolClass.READ,
    },
    roles={"analyst": Role("analyst", frozenset({"read"}), token=frozenset({"write"}))},
    tasks={"review": frozenset({"read"}), "report": frozenset({"read", "write", "execute"})},
    scopes={"reports": frozenset({"read", "files.write_file"})},
    groups={},
    tenants={"acme": Tenant(frozenset({"files", "git"}))},
)
SETTINGS = TokenSettings(ISSUER, {}, frozenset({"reports"}), 300)
CLOCK = StepClock(1000)
VIEWS = ConsentViews(POLICY, SETTINGS, 90 * 86400, CLOCK)


def view(
    client: Client = CLIENT,
    resource: str = f"{ISSUER}/mcp/files",
    task: str | None = "report",
    redirect_uri: str | None = "https://app.example:8443/cb?x=1",
    *,
    refresh: bool = False,
    lasts: int | None = None,
) -> ConsentView:
    return VIEWS.view(client, AGENT, ALICE, resource, ["reports"], task, redirect_uri, refresh=refresh, lasts=lasts)


def tools(seen: ConsentView) -> dict[str, list[tuple[str, str, bool]]]:
    return {task.name: [(tool.name, tool.does, tool.token) for tool in task.tools] for task in seen.tasks}


def test_a_task_is_told_with_the_tools_of_that_server_and_those_that_need_an_approval() -> None:
    seen = view()
    assert (seen.resource_kind, seen.server, seen.task_named) == ("server", "files", True)
    assert tools(seen) == {
        "report": [
            ("read_file", "read", False),
            ("resource:file:///**", "read", False),
            ("write_file", "write", True),
        ]
    }


def test_without_a_task_every_task_is_told_and_for_sessions_every_server() -> None:
    seen = view(resource=f"{ISSUER}/sessions", task=None)
    assert (seen.resource_kind, seen.server, seen.task_named) == ("sessions", "", False)
    assert [tool for tool, _, _ in tools(seen)["review"]] == [
        "files.read_file",
        "files.resource:file:///**",
        "git.git_log",
    ]
    assert list(tools(seen)) == ["review", "report"]


def test_an_agent_of_an_unknown_role_may_use_nothing() -> None:
    seen = VIEWS.view(CLIENT, msgspec.structs.replace(AGENT, role="gone"), ALICE, f"{ISSUER}/mcp/files", [], None, None)
    assert tools(seen) == {"review": [], "report": []}


def test_scopes_are_told_with_what_they_cover() -> None:
    assert view().scopes == (ScopeWords("reports", ("files.write_file", "read")),)


@pytest.mark.parametrize(
    ("redirect_uri", "shown", "loopback", "application", "always"),
    [
        ("https://app.example:8443/cb?x=1", "app.example", False, False, False),
        ("http://127.0.0.1:51004/cb", "127.0.0.1", True, False, True),
        ("http://localhost/cb", "localhost", True, False, True),
        ("com.example.app:/cb", "com.example.app:", False, True, True),
        (None, "", False, False, False),
    ],
)
def test_where_the_answer_goes(
    redirect_uri: str | None, shown: str, loopback: bool, application: bool, always: bool
) -> None:
    seen = view(redirect_uri=redirect_uri)
    assert (seen.redirect, seen.redirect_loopback, seen.redirect_application) == (shown, loopback, application)
    assert seen.always_asks is always


def test_a_program_that_proves_itself_need_not_be_asked_about_each_time() -> None:
    proven = msgspec.structs.replace(CLIENT, auth=ClientAuth.PRIVATE_KEY_JWT, jwks='{"keys":[]}')
    assert not view(proven, redirect_uri="http://127.0.0.1/cb").always_asks


@pytest.mark.parametrize(
    ("client_id", "source", "host", "unvetted"),
    [
        ("https://clients.example:8443/acme.json", ClientSource.DOCUMENT, "clients.example", True),
        ("https://[broken/acme.json", ClientSource.DOCUMENT, "", True),
        ("c-123", ClientSource.REGISTERED, "", True),
        ("native", ClientSource.ADDED, "", False),
        ("native", ClientSource.CONFIGURED, "", False),
    ],
)
def test_who_says_that_the_client_exists(client_id: str, source: ClientSource, host: str, unvetted: bool) -> None:
    seen = view(msgspec.structs.replace(CLIENT, client_id=client_id, source=source))
    assert (seen.client_host, seen.unvetted) == (host, unvetted)


def test_names_of_strangers_are_as_they_may_be_shown() -> None:
    seen = view(msgspec.structs.replace(CLIENT, name="Acme\u202e" + "x" * 200))
    assert seen.client.startswith("Acme[U+202E]x")
    assert len(seen.client) < 100


@pytest.mark.parametrize(
    ("refresh", "ends", "lasts", "renewed"),
    [
        (False, None, "5 minutes", ""),
        (True, None, "5 minutes", "90 days"),
        (True, 3600, "5 minutes", "1 hour"),
        (True, 100, "1 minute", "1 minute"),
    ],
)
def test_how_long_it_lasts(refresh: bool, ends: int | None, lasts: str, renewed: str) -> None:
    seen = view(refresh=refresh, lasts=ends)
    assert (seen.lasts, seen.renewed) == (lasts, renewed)


@pytest.mark.parametrize(("until", "observed"), [(None, False), (1001, True), (1000, False)])
def test_limits_that_are_only_watched_are_no_promise(until: int | None, observed: bool) -> None:
    policy = msgspec.structs.replace(POLICY, observe_until=until)
    seen = ConsentViews(policy, SETTINGS, 1, CLOCK).view(CLIENT, AGENT, ALICE, f"{ISSUER}/mcp/files", [], None, None)
    assert seen.observed is observed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7199, "1 hour"), (172800, "2 days")],
)
def test_durations(seconds: int, words: str) -> None:
    assert in_words(seconds) == words
