"""Whether the settings hold together: every name refers to something, and nothing contradicts anything else."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from twogate.config.document import KeyPath
from twogate.config.issuer import Issuer
from twogate.config.references_approvals import approval_problems
from twogate.config.references_authserver import AuthserverReferences
from twogate.config.references_clients import client_problems
from twogate.config.references_names import Found, Names, hint
from twogate.config.references_policies import policy_problems
from twogate.config.references_sandbox import sandbox_problems
from twogate.config.references_shared import shared_problems
from twogate.config.references_tenants import TenantReferences
from twogate.config.references_workloads import workload_problems
from twogate.config.servers import LibraryServer
from twogate.config.settings import EMBEDDED, AgentSettings, BindingSettings
from twogate.config.store_url import is_postgresql
from twogate.config.values import UnixAddress, is_loopback
from twogate.config.workloads import Workloads
from twogate.core.entry import Entries
from twogate.core.principal import PUBLIC_CLIENT
from twogate.flows.authserver.clients import ClientKind


class References(Names):
    """Finds every problem between settings.

    `broken` are the places that could not be read themselves and were left out of `settings`; they are reported
    already, so a name that refers to one of them is not reported again.
    """

    def problems(self) -> Iterator[Found]:
        """Every problem, in the order of the sections."""
        yield from self._edge()
        yield from self._store()
        yield from shared_problems(self._settings, self._broken)
        yield from sandbox_problems(self._settings, self._broken)
        yield from self._issuers()
        yield from workload_problems(self._settings, self._broken)
        yield from self._enforcement()
        yield from self._tools()
        yield from approval_problems(self._settings, self._broken)
        yield from policy_problems(self._settings, self._broken)
        yield from self._roles()
        yield from self._tasks()
        yield from self._agents()
        yield from client_problems(self._settings, self._broken)
        yield from self._groups()
        yield from AuthserverReferences(self._settings, self._broken).problems()
        for name, entries in self._settings.scopes.items():
            yield from self._entries(("scopes", name), entries)
        yield from TenantReferences(self._settings, self._broken).problems()

    def _edge(self) -> Iterator[Found]:
        settings = self._settings
        if not {("public_url",), ("listen",), ("tls",)}.isdisjoint(self._broken):
            return
        local = isinstance(settings.listen, UnixAddress) or is_loopback(settings.listen.host)
        if settings.public_url.startswith("https:"):
            # A Unix socket can only be reached by a proxy on this machine, which then speaks TLS. Before a server that
            # guards itself, TLS is its own HTTP server's (`twogate serve` refuses such a file).
            elsewhere = any(isinstance(server, LibraryServer) for server in settings.servers.values())
            if settings.tls is None and not isinstance(settings.listen, UnixAddress) and not elsewhere:
                yield ("tls",), "is missing: an https public_url needs `tls: {certificate: …, key: …}`"
        else:
            if settings.tls is not None:
                yield ("tls",), "contradicts public_url, which is http; write https there or remove tls"
            if not local:
                yield ("listen",), "must be a loopback address while public_url is http"

    def _store(self) -> Iterator[Found]:
        settings = self._settings
        if not self._has("store"):
            return
        if not is_postgresql(settings.store):
            for name in ("store_password", "store_ca"):
                if getattr(settings, name) is not None:
                    yield (name,), "goes with a PostgreSQL store"
            return
        if settings.state is None and self._has("state"):
            yield ("state",), "is missing: with PostgreSQL, say where the audit trail and the key files live"
        if settings.store_ca is not None and urlsplit(settings.store).netloc.endswith("@"):
            yield ("store_ca",), "is of no use: PostgreSQL speaks no TLS over a Unix socket"

    def _issuers(self) -> Iterator[Found]:
        settings = self._settings
        if not self._has("embedded") or not self._has("issuers"):
            return
        if not settings.issuers and not settings.embedded.enabled:
            yield ("issuers",), "is missing: with the embedded server disabled nobody could get a token"
        opaque = [index for index, issuer in enumerate(settings.issuers) if issuer.validation == "introspect"]
        for index in opaque[1:]:
            # A token that is no JWT names no issuer; asking several would show each the others' tokens.
            yield ("issuers", index, "validate"), "only one issuer's tokens can be opaque; another one says so above"
        seen: set[str] = set()
        for index, issuer in enumerate(settings.issuers):
            place: KeyPath = ("issuers", index)
            if issuer.issuer in seen:
                yield (*place, "issuer"), f"{issuer.issuer} is listed twice; merge the two"
            seen.add(issuer.issuer)
            if settings.embedded.enabled and issuer.issuer.rstrip("/") == settings.public_url:
                yield (*place, "issuer"), "is public_url, which belongs to the embedded server; remove one of them"
            for at, tenant in enumerate(issuer.tenants):
                yield from self._name("tenants", tenant, "tenant", (*place, "tenants", at))
            for at, role in enumerate(issuer.roles):
                yield from self._own_name("roles", issuer.tenants, role, "role", (*place, "roles", at))
            yield from self._audiences(issuer, (*place, "audiences"))

    def _audiences(self, issuer: Issuer, place: KeyPath) -> Iterator[Found]:
        settings = self._settings
        clients = {
            binding.identifier
            for agent in settings.agents.values()
            for binding in agent.bindings
            if binding.issuer == issuer.issuer
        }
        for path, name in issuer.audiences.items():
            server = path.removeprefix("/mcp/")
            if server != path:
                yield from self._name("servers", server, "server", (*place, path))
            if name.startswith(settings.public_url):
                yield (*place, path), "must be another name than a resource's own address, which always counts"
            if name in clients:
                # As `aud` it would make every ID token of that client look like an access token.
                yield (*place, path), f"{name!r} is an agent; register the resource under a name of its own"

    def _enforcement(self) -> Iterator[Found]:
        settings = self._settings
        if not {("enforcement",), ("observe_until",)}.isdisjoint(self._broken):
            return
        if settings.enforcement == "observe" and settings.observe_until is None:
            yield ("observe_until",), "is missing: say when observing ends, for example `observe_until: 2026-12-01`"
        elif settings.enforcement != "observe" and settings.observe_until is not None:
            yield ("observe_until",), "goes with `enforcement: observe`; remove it to enforce"

    def _tools(self) -> Iterator[Found]:
        for target in self._settings.tools:
            server = target.partition(".")[0]
            yield from self._name("servers", server, "server", ("tools", target))
        for one, other in Entries(self._settings.tools).ambiguous():
            text = f"may match the same URI as {other}, and neither is the more specific: both begin alike up to the"
            yield ("tools", one), f"{text} first wildcard; give one of them a longer beginning"

    def _roles(self) -> Iterator[Found]:
        for name, role in self._settings.roles.items():
            for kind in ("allow", "token", "deny"):
                yield from self._entries(("roles", name, kind), getattr(role, kind))

    def _tasks(self) -> Iterator[Found]:
        for name, task in self._settings.tasks.items():
            yield from self._entries(("tasks", name, "tools"), task.tools)

    def _agents(self) -> Iterator[Found]:
        bound: dict[tuple[str, str], str] = {}
        # The tokens of a host name the agent that it runs themselves.
        hosted = {client.agent for client in self._settings.clients.values() if client.kind is ClientKind.HOST}
        for name, agent in self._settings.agents.items():
            place: KeyPath = ("agents", name)
            tenant, _, own_name = name.partition("/")
            yield from self._name("tenants", tenant, "tenant", place)
            yield from self._own_name("roles", (tenant,), agent.role, "role", (*place, "role"))
            for index, task in enumerate(agent.tasks):
                yield from self._own_name("tasks", (tenant,), task, "task", (*place, "tasks", index))
            if agent.default_task is not None and agent.default_task not in agent.tasks:
                yield (*place, "default_task"), f"{agent.default_task!r} is not among this agent's tasks; add it there"
            if agent.bindings and own_name == PUBLIC_CLIENT:
                yield (
                    (*place, "bindings"),
                    f"do not belong to {PUBLIC_CLIENT}: clients without an agent of their own are it",
                )
            elif not agent.bindings and own_name != PUBLIC_CLIENT and name not in hosted:
                yield (*place, "bindings"), "is missing: say which credential means this agent, or which host runs it"
            yield from self._bindings(name, tenant, agent, bound)

    def _bindings(
        self, name: str, tenant: str, agent: AgentSettings, bound: dict[tuple[str, str], str]
    ) -> Iterator[Found]:
        for index, binding in enumerate(agent.bindings):
            place: KeyPath = ("agents", name, "bindings", index)
            yield from self._binding_issuer(tenant, binding, (*place, "issuer"))
            key = (binding.issuer, binding.identifier)
            first = bound.setdefault(key, name)
            if first != name or any(
                other.identifier == key[1] and other.issuer == key[0] for other in agent.bindings[:index]
            ):
                text = f"{binding.identifier!r} of {binding.issuer} is bound to {first} already"
                yield place, f"{text}; one credential is one agent"

    def _binding_issuer(self, tenant: str, binding: BindingSettings, place: KeyPath) -> Iterator[Found]:
        settings = self._settings
        if binding.issuer == EMBEDDED:
            if self._has("embedded") and not settings.embedded.enabled:
                yield place, "the embedded server is disabled; enable it or bind to one of `issuers`"
            return
        if binding.issuer.rstrip("/") == settings.public_url:
            yield place, f"is public_url; write `{EMBEDDED}`"
            return
        if not self._has("issuers") or not self._has("workloads"):
            return
        known: list[Issuer | Workloads] = [*settings.issuers, *settings.workloads]
        allowed = [item.tenants for item in known if item.issuer == binding.issuer]
        if not allowed:
            names = [EMBEDDED, *(item.issuer for item in known)]
            yield place, f"unknown issuer {binding.issuer!r}{hint(binding.issuer, names)}"
        elif not any(tenant in tenants for tenants in allowed):
            yield place, f"{binding.issuer} may not assert the tenant {tenant!r}; add it to the issuer's tenants"

    def _groups(self) -> Iterator[Found]:
        for name, group in self._settings.groups.items():
            if group.role is not None:
                yield from self._name("roles", group.role, "role", ("groups", name, "role"))
            for index, scope in enumerate(group.scopes):
                yield from self._name("scopes", scope, "scope", ("groups", name, "scopes", index))
