"""What a person is told before they allow something: who asks, for what, where it goes, and for how long."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

import msgspec

from twogate.core.access import Effect, Policy, Role, session_targets
from twogate.core.entry import WITHHELD, parse_entry
from twogate.core.oauth.redirect_uri import parse_redirect_uri
from twogate.core.oauth.resource import OPERATIONS_PATH, SESSIONS_PATH, server_path
from twogate.core.principal import Agent
from twogate.core.shown import shown
from twogate.flows.authserver.access_tokens import TokenSettings
from twogate.flows.authserver.clients import Client, ClientSource
from twogate.flows.authserver.consent import must_ask
from twogate.flows.authserver.people import User
from twogate.flows.environment import Clock

_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_MAX_ID: Final = 300


class ToolWords(msgspec.Struct, frozen=True):
    """One entry that the client may use. `token`: each use needs an approval of its own."""

    name: str
    does: str
    token: bool


class TaskWords(msgspec.Struct, frozen=True):
    """A task and what it may use at the resource."""

    name: str
    tools: tuple[ToolWords, ...]


class ScopeWords(msgspec.Struct, frozen=True):
    """A scope and the classes and entries that it covers."""

    name: str
    covers: tuple[str, ...]


class ConsentView(msgspec.Struct, frozen=True):
    """A consent page's words. Names of strangers are as they may be shown.

    `client_host` is the host of a client id that is a URL, `redirect` the host or scheme that the answer goes to.
    `server` is the MCP server of the resource; empty for `sessions` or `operations`, as `resource_kind` says.
    `task_named`: the client asks for that one task; else it may begin each of `tasks`. `lasts` and `renewed` are
    durations in words, `renewed` empty if the client has to ask again. `observed`: roles and tasks bind nobody yet.
    """

    client: str
    client_id: str
    client_host: str
    unvetted: bool
    redirect: str
    redirect_loopback: bool
    redirect_application: bool
    always_asks: bool
    person: str
    login_name: str
    tenant: str
    resource: str
    resource_kind: str
    server: str
    scopes: tuple[ScopeWords, ...]
    task_named: bool
    tasks: tuple[TaskWords, ...]
    lasts: str
    renewed: str
    observed: bool


class ConsentViews:
    """Puts requests into words, by one policy. `renewable` is how long a grant may be renewed, in seconds."""

    def __init__(self, policy: Policy, settings: TokenSettings, renewable: int, clock: Clock) -> None:
        self._policy = policy
        self._settings = settings
        self._renewable = renewable
        self._clock = clock

    def view(
        self,
        client: Client,
        agent: Agent,
        user: User,
        resource: str,
        scopes: Collection[str],
        task: str | None,
        redirect_uri: str | None,
        *,
        refresh: bool = False,
        lasts: int | None = None,
    ) -> ConsentView:
        """The words for one request. `redirect_uri` is None where no browser goes back, as with devices.

        `lasts` are the seconds after which all of it ends because the login does, None if nothing says so.
        """
        kind, server = self._resource(resource)
        redirect = None if redirect_uri is None else parse_redirect_uri(redirect_uri)
        tasks = agent.tasks if task is None else (task,)
        renewable = self._renewable if lasts is None else min(self._renewable, lasts)
        return ConsentView(
            client=shown(client.label),
            client_id=shown(client.client_id, _MAX_ID),
            client_host=_host(client.client_id),
            unvetted=client.source in (ClientSource.REGISTERED, ClientSource.DOCUMENT),
            redirect="" if redirect is None else shown(redirect.shown, _MAX_ID),
            redirect_loopback=redirect is not None and redirect.loopback,
            redirect_application=redirect is not None and not redirect.host,
            always_asks=redirect is not None and must_ask(client, https=redirect.scheme == "https"),
            person=shown(user.label),
            login_name=shown(user.name),
            tenant=client.tenant,
            resource=resource,
            resource_kind=kind,
            server=server,
            scopes=tuple(ScopeWords(name, tuple(sorted(self._policy.scopes.get(name, ())))) for name in scopes),
            task_named=task is not None,
            tasks=tuple(TaskWords(name, self._tools(agent, name, server)) for name in tasks),
            lasts=in_words(self._settings.lifetime if lasts is None else min(self._settings.lifetime, lasts)),
            renewed=in_words(renewable) if refresh else "",
            observed=self._policy.observing(self._clock.now()),
        )

    def _resource(self, resource: str) -> tuple[str, str]:
        path = resource.removeprefix(self._settings.issuer)
        if path in (SESSIONS_PATH, OPERATIONS_PATH):
            return path.removeprefix("/"), ""
        return "server", path.removeprefix(server_path(""))

    def _tools(self, agent: Agent, task: str, server: str) -> tuple[ToolWords, ...]:
        policy = self._policy.of(agent.id.tenant)
        role = policy.roles.get(agent.role)
        if role is None:
            return ()
        held = sorted(session_targets(policy, agent.role, task))
        return tuple(
            _words(policy, role, name, server)
            for name in held
            if not name.startswith(WITHHELD) and (not server or parse_entry(name).server == server)
        )


def _words(policy: Policy, role: Role, name: str, server: str) -> ToolWords:
    tool_class = policy.classes[name]
    label = name.removeprefix(f"{server}.") if server else name
    return ToolWords(label, tool_class.value, role.effect(name, tool_class) is Effect.TOKEN)


def in_words(seconds: int) -> str:
    """A duration in its largest unit that is not less than one, rounded down: `90 days`, `1 hour`."""
    for size, unit in _UNITS:
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return "0 seconds"


def _host(client_id: str) -> str:
    if not client_id.startswith("https://"):
        return ""
    try:
        return shown(urlsplit(client_id).hostname or "", _MAX_ID)
    except ValueError:
        return ""
