"""The Cedar schema that policies are checked against, from the settings (R-35).

Tenants, roles and servers are enumerated, so that a policy cannot name one that does not exist. Each entry of `tools`
is an action of its own, in the group of its class, with its own arguments: tools may use one name for different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from twogate.config.arguments import declared_of
from twogate.config.document import KeyPath
from twogate.config.settings import Settings, Tool
from twogate.config.tenants import every_role
from twogate.core.access import ToolClass
from twogate.core.conditions import (
    ANY_CALL,
    NAMESPACE,
    NOTHING_DECLARED,
    SHAPE,
    URI,
    ArgumentType,
    Declared,
    Kind,
    kind_of,
)

_CEDAR: Mapping[ArgumentType, str] = {
    ArgumentType.BOOL: "Bool",
    ArgumentType.LONG: "Long",
    ArgumentType.STRING: "String",
    ArgumentType.DECIMAL: "decimal",
    ArgumentType.STRINGS: "Set<String>",
    ArgumentType.LONGS: "Set<Long>",
}


class PolicyAction(msgspec.Struct, frozen=True):
    """What policies know of an entry of `tools`. `declared` are the arguments that they may look at."""

    kind: Kind
    tool_class: ToolClass
    declared: Declared


def entry_places(settings: Settings) -> Iterator[tuple[KeyPath, str, Tool]]:
    """Every entry that classifies something, with its place: the shared ones, then the tenants' own."""
    for entry, tool in settings.tools.items():
        yield ("tools", entry), entry, tool
    for name, tenant in settings.tenants.items():
        for entry, tool in tenant.tools.items():
            yield ("tenants", name, "tools", entry), entry, tool


def action_of(entry: str, tool: Tool) -> PolicyAction:
    """What policies know of one entry."""
    kind = kind_of(entry)
    if kind is Kind.RESOURCE:
        return PolicyAction(kind, tool.tool_class, URI)
    return PolicyAction(kind, tool.tool_class, declared_of(tool.arguments) if tool.arguments else NOTHING_DECLARED)


def policy_actions(settings: Settings) -> dict[str, PolicyAction]:
    """What policies know of each entry. Tenants that have one of the same name mean the same by it."""
    return {entry: action_of(entry, tool) for _, entry, tool in entry_places(settings)}


def policy_schema(settings: Settings, actions: Mapping[str, PolicyAction]) -> dict[str, Any]:
    """The schema, in Cedar's JSON form (docs.cedarpolicy.com, "JSON schema format")."""
    entity_types = {
        "Tenant": {"enum": sorted(settings.tenants)},
        "Role": {"enum": sorted(every_role(settings))},
        # An empty enumeration does not exist in Cedar; without servers there is nothing to name.
        "Server": {"enum": sorted(settings.servers)} if settings.servers else {},
        "Agent": {"memberOfTypes": ["Tenant", "Role"], "shape": _record(SHAPE["principal"])},
        "Target": {"memberOfTypes": ["Server"], "shape": _record(SHAPE["resource"])},
    }
    # Groups are actions too, so that a policy about a class without entries is no mistake.
    groups = {ANY_CALL: _action(NOTHING_DECLARED)} | {
        item.value: _action(NOTHING_DECLARED, ANY_CALL, required=False) for item in ToolClass
    }
    own = {
        entry: _action(action.declared, action.tool_class.value, required=action.kind is Kind.RESOURCE)
        for entry, action in actions.items()
    }
    return {NAMESPACE: {"commonTypes": {}, "entityTypes": entity_types, "actions": groups | own}}


def _action(declared: Declared, group: str | None = None, *, required: bool = False) -> dict[str, Any]:
    context = _record(SHAPE["context"])
    context["attributes"]["arguments"] = _arguments(declared, required=required)
    return {
        "memberOf": [] if group is None else [{"id": group}],
        "appliesTo": {"principalTypes": ["Agent"], "resourceTypes": ["Target"], "context": context},
    }


def _arguments(declared: Declared, *, required: bool = False) -> dict[str, Any]:
    attributes = {
        name: (_type(_CEDAR[kind]) if isinstance(kind, ArgumentType) else _arguments(kind)) | {"required": required}
        for name, kind in declared.items()
    }
    return {"type": "Record", "attributes": attributes}


def _record(shape: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {
        name.removesuffix("?"): (_type(kind) if isinstance(kind, str) else _record(kind))
        | {"required": not name.endswith("?")}
        for name, kind in shape.items()
    }
    return {"type": "Record", "attributes": attributes}


def _type(name: str) -> dict[str, Any]:
    if name.startswith("Set<"):
        return {"type": "Set", "element": _type(name.removeprefix("Set<").removesuffix(">"))}
    match name:
        case "String" | "Long":
            return {"type": name}
        case "Bool":
            return {"type": "Boolean"}
        case "ipaddr" | "datetime" | "decimal":
            return {"type": "Extension", "name": name}
        case _:
            return {"type": "Entity", "name": name}
