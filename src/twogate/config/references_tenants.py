"""Whether what is a tenant's own holds together: its tools, roles, tasks, and secrets; part of `references` (R-36)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from twogate.config.document import KeyPath
from twogate.config.references_names import Found, Names
from twogate.config.servers import StdioServer
from twogate.config.settings import TenantSettings
from twogate.config.tenants import OwnSection, tenant_tools
from twogate.core.entry import Entries

_HAS_MEMORY_FILES: Final = hasattr(os, "memfd_create")

_OWN: Final[tuple[OwnSection, ...]] = ("tools", "roles", "tasks")


class TenantReferences(Names):
    """Finds the problems of `tenants`, and of the servers' credentials."""

    def problems(self) -> Iterator[Found]:
        """Every problem, tenant by tenant."""
        files: dict[str, str] = {}
        for name, tenant in self._settings.tenants.items():
            for index, server in enumerate(tenant.servers):
                yield from self._name("servers", server, "server", ("tenants", name, "servers", index))
            for section in _OWN:
                yield from self._once(name, tenant, section)
            yield from self._tools(name, tenant)
            for role_name, role in tenant.roles.items():
                for kind in ("allow", "token", "deny"):
                    place: KeyPath = ("tenants", name, "roles", role_name, kind)
                    yield from self._entries(place, getattr(role, kind), name)
            for task_name, task in tenant.tasks.items():
                yield from self._entries(("tenants", name, "tasks", task_name, "tools"), task.tools, name)
            yield from self._secrets(name, tenant)
            yield from self._files(name, tenant, files)
        yield from self._credentials()

    def _once(self, name: str, tenant: TenantSettings, section: OwnSection) -> Iterator[Found]:
        """That no name is shared and the tenant's own: readers of either place would believe that one."""
        shared = getattr(self._settings, section)
        for item in getattr(tenant, section):
            if item not in shared or not self._has(section):
                continue
            own = f"tenants.{name}.{section}"
            if section in self._settings.model_fields_set:
                yield ("tenants", name, section, item), f"stands in {section} too; nothing is overridden, so rename one"
                yield (section, item), f"stands in {own} too; nothing is overridden, so rename one"
            else:
                yield ("tenants", name, section, item), f"is the name of a role that comes with Twogate; rename {own}'s"

    def _tools(self, name: str, tenant: TenantSettings) -> Iterator[Found]:
        for target in tenant.tools:
            server, place = target.partition(".")[0], ("tenants", name, "tools", target)
            if self._has("servers") and not self._knows("servers", server):
                yield from self._name("servers", server, "server", place)
            elif server not in tenant.servers:
                yield place, f"is of {server!r}, which is not among this tenant's servers; add it there"
        if not tenant.tools:
            return
        for one, other in Entries(tenant_tools(self._settings, name)).ambiguous():
            mine = [target for target in (one, other) if target in tenant.tools]
            for target in mine[:1]:
                text = f"may match the same URI as {other if target == one else one}, and neither is the more specific"
                yield ("tenants", name, "tools", target), f"{text}; give one of them a longer beginning"

    def _secrets(self, name: str, tenant: TenantSettings) -> Iterator[Found]:
        for server in tenant.secrets:
            place: KeyPath = ("tenants", name, "secrets", server)
            if self._has("servers") and not self._knows("servers", server):
                yield from self._name("servers", server, "server", place)
                continue
            if server not in tenant.servers:
                yield place, f"{server!r} is not among this tenant's servers; add it there"
            known = self._settings.servers.get(server)
            if known is not None and known.credential is None:
                yield place, f"nothing would be done with it; add `credential: {{}}` to servers.{server}"

    def _files(self, name: str, tenant: TenantSettings, files: dict[str, str]) -> Iterator[Found]:
        """That no two tenants share a secret: their server could not tell them apart."""
        for server, reference in tenant.secrets.items():
            if reference.path is not None:
                first = files.setdefault(os.path.normpath(reference.path), name)
                if first != name:
                    text = f"is {first}'s already; tenants must not share a secret, so name a file of {name}'s own"
                    yield ("tenants", name, "secrets", server), f"{reference} {text}"

    def _credentials(self) -> Iterator[Found]:
        if _HAS_MEMORY_FILES:
            return
        for name, server in self._settings.servers.items():
            if isinstance(server, StdioServer) and server.credential is not None and server.credential.env is None:
                yield ("servers", name, "credential"), "needs Linux to be a file; name a variable with `env`"
