"""Whether approvals hold together: somebody must be able to decide what waits."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from twogate.config.document import KeyPath
from twogate.config.references_names import Found, hint
from twogate.config.settings import Settings, Tool
from twogate.config.tenants import every_role


def approval_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem of `approval`, of the shared tools and of the tenants' own."""
    yield from _problems(settings, ("tools",), settings.tools, broken)
    for name, own in settings.tenants.items():
        yield from _problems(settings, ("tenants", name, "tools"), own.tools, broken)
    for name, channel in settings.notify.items():
        for index, tenant in enumerate(channel.tenants):
            if tenant not in settings.tenants and ("tenants", tenant) not in broken:
                text = f"unknown tenant {tenant!r}{hint(tenant, settings.tenants)}"
                yield ("notify", name, "tenants", index), text


def _problems(
    settings: Settings, section: KeyPath, tools: Mapping[str, Tool], broken: frozenset[KeyPath]
) -> Iterator[Found]:
    for target, tool in tools.items():
        place = (*section, target, "approval")
        if not tool.approvals or place in broken:
            continue
        if not settings.embedded.enabled:
            yield place, "needs the embedded authorization server, whose people approve (embedded)"
        elif ("public_url",) not in broken and _is_address(settings.public_url):
            yield place, "needs a name in public_url: people sign approvals by passkeys, which an address cannot have"
        roles = every_role(settings)
        for number, rule in enumerate(tool.approvals):
            for tenant in rule.when.tenants:
                if tenant not in settings.tenants and ("tenants", tenant) not in broken:
                    known = hint(tenant, settings.tenants)
                    yield (*place, number, "when", "tenants"), f"unknown tenant {tenant!r}{known}"
            for role in rule.when.roles:
                if role not in roles and ("roles", role) not in broken:
                    yield (*place, number, "when", "roles"), f"unknown role {role!r}{hint(role, roles)}"


def _is_address(url: str) -> bool:
    try:
        ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True
