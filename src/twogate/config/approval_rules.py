"""What the settings say of approvals, by tenant."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from twogate.config.settings import Settings
from twogate.config.tenants import tenant_tools
from twogate.core.approval_rules import Rules


def approval_rules(settings: Settings) -> Mapping[str, Rules]:
    """The rules of each tenant, by classified entry."""
    return MappingProxyType(
        {
            tenant: MappingProxyType(
                {
                    entry: tuple(rule.compiled() for rule in tool.approvals)
                    for entry, tool in tenant_tools(settings, tenant).items()
                    if tool.approvals
                }
            )
            for tenant in settings.tenants
        }
    )
