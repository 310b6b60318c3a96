"""What holds for one tenant: what all tenants share, and beside it what is the tenant's own (R-36).

A name stands in one of the two only (`references_tenants`), so nothing here overrides anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from twogate.config.settings import RoleSettings, Settings, Task, Tool

OwnSection = Literal["tools", "roles", "tasks"]
"""The sections that a tenant may have of its own."""


def tenant_tools(settings: Settings, tenant: str) -> Mapping[str, Tool]:
    """How a tenant's calls are classified."""
    entry = settings.tenants.get(tenant)
    return settings.tools if entry is None or not entry.tools else {**settings.tools, **entry.tools}


def tenant_roles(settings: Settings, tenant: str) -> Mapping[str, RoleSettings]:
    """The roles of a tenant's agents and people."""
    entry = settings.tenants.get(tenant)
    return settings.roles if entry is None or not entry.roles else {**settings.roles, **entry.roles}


def tenant_tasks(settings: Settings, tenant: str) -> Mapping[str, Task]:
    """The tasks of a tenant's agents."""
    entry = settings.tenants.get(tenant)
    return settings.tasks if entry is None or not entry.tasks else {**settings.tasks, **entry.tasks}


def own(settings: Settings, section: OwnSection, tenant: str) -> Collection[str]:
    """The names of a section that are the tenant's own."""
    entry = settings.tenants.get(tenant)
    return () if entry is None else getattr(entry, section)


def every_role(settings: Settings) -> frozenset[str]:
    """The roles that exist for anybody."""
    return frozenset(settings.roles).union(*(entry.roles for entry in settings.tenants.values()))
