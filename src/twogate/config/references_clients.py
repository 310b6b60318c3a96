"""Whether the settings of clients hold together with tenants and agents; part of `references`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from twogate.config.document import KeyPath
from twogate.config.tenants import tenant_tools
from twogate.core.access import ToolClass
from twogate.core.principal import PUBLIC_CLIENT
from twogate.flows.authserver.clients import ClientKind

if TYPE_CHECKING:
    from twogate.config.clients import ClientSettings
    from twogate.config.settings import Settings

Found = tuple[KeyPath, str]

_EMBEDDED: Final = "embedded"
_CLASSES: Final = frozenset(item.value for item in ToolClass)


def client_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem of `clients`, `cimd` and `registration`; `broken` as in `References`."""
    found = _Clients(settings, broken)
    yield from found.declared()
    yield from found.documents()
    yield from found.registration()


class _Clients:
    def __init__(self, settings: Settings, broken: frozenset[KeyPath]) -> None:
        self._settings = settings
        self._broken = broken
        self._bound = {
            binding.identifier: name
            for name, agent in settings.agents.items()
            for binding in agent.bindings
            if binding.issuer == _EMBEDDED
        }

    def declared(self) -> Iterator[Found]:
        for name, client in self._settings.clients.items():
            place: KeyPath = ("clients", name)
            yield from self._enabled(place)
            yield from self._tenant(client.tenant, (*place, "tenant"))
            if client.kind is ClientKind.AGENT and client.agent is not None:
                yield from self._owner(name, client.agent, place)
                continue
            yield from self._unbound(name, place, f"must have kind agent and `agent: {self._bound.get(name)}`")
            yield from self._authorizer(client, place)
            if client.agent is not None:
                yield from self._known_agent(client.agent, (*place, "agent"))
            elif client.kind is not ClientKind.AUTHORIZER:
                yield from self._public_agent(client.tenant, place)

    def documents(self) -> Iterator[Found]:
        seen: set[str] = set()
        for index, entry in enumerate(self._settings.cimd):
            place: KeyPath = ("cimd", index)
            yield from self._enabled(place)
            yield from self._tenant(entry.tenant, (*place, "tenant"))
            name = entry.client_id or entry.domain or ""
            if name in seen:
                yield place, f"{name} is listed twice; a document belongs to one tenant"
            seen.add(name)
            if entry.agent is not None:
                yield from self._owner(name, entry.agent, place)
            else:
                yield from self._unbound(name, place, f"needs `agent: {self._bound.get(name)}`")
                yield from self._public_agent(entry.tenant, place)

    def registration(self) -> Iterator[Found]:
        registration = self._settings.registration
        if registration is None:
            return
        yield from self._enabled(("registration",))
        yield from self._tenant(registration.tenant, ("registration", "tenant"))
        yield from self._public_agent(registration.tenant, ("registration",))

    def _enabled(self, place: KeyPath) -> Iterator[Found]:
        if ("embedded",) not in self._broken and not self._settings.embedded.enabled:
            yield place, "is of no use: the embedded server is disabled"

    def _tenant(self, tenant: str, place: KeyPath) -> Iterator[Found]:
        if not {("tenants",), ("tenants", tenant)} & self._broken and tenant not in self._settings.tenants:
            yield place, f"unknown tenant {tenant!r}; add it to tenants"

    def _known_agent(self, agent: str, place: KeyPath) -> Iterator[Found]:
        if not {("agents",), ("agents", agent)} & self._broken and agent not in self._settings.agents:
            yield place, f"unknown agent {agent!r}; add it to agents"

    def _authorizer(self, client: ClientSettings, place: KeyPath) -> Iterator[Found]:
        for index, agent in enumerate(client.agents):
            yield from self._known_agent(agent, (*place, "agents", index))
        if {("tools",), ("tenants",), ("tenants", client.tenant)} & self._broken:
            return
        known = tenant_tools(self._settings, client.tenant)
        for index, tool in enumerate(client.tools):
            if tool not in _CLASSES and tool not in known and ("tools", tool) not in self._broken:
                yield (*place, "tools", index), f"{tool!r} is neither a class nor an entry of tools; add it there"

    def _owner(self, client_id: str, agent: str, place: KeyPath) -> Iterator[Found]:
        """That the client's tokens will be the agent's: the gateway goes by the bindings."""
        yield from self._known_agent(agent, (*place, "agent"))
        if {("agents",), ("agents", agent)} & self._broken or agent not in self._settings.agents:
            return
        if agent.partition("/")[2] == PUBLIC_CLIENT:
            yield (*place, "agent"), f"{PUBLIC_CLIENT} is for clients without an agent; leave `agent` out"
        elif self._bound.get(client_id) != agent:
            binding = f"{{issuer: {_EMBEDDED}, client_id: {client_id}}}"
            yield (*place, "agent"), f"{agent} is not bound to this client; add {binding} to its bindings"

    def _unbound(self, client_id: str, place: KeyPath, remedy: str) -> Iterator[Found]:
        if client_id in self._bound:
            yield place, f"is bound to the agent {self._bound[client_id]}, so it {remedy}"

    def _public_agent(self, tenant: str, place: KeyPath) -> Iterator[Found]:
        name = f"{tenant}/{PUBLIC_CLIENT}"
        if not {("agents",), ("agents", name)} & self._broken and name not in self._settings.agents:
            yield place, f"acts as the agent {name}, which is missing; add it to agents with a role and tasks"
