"""Settings with Cedar policies, and calls that are put to them without a gateway around."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gatelab import AGENT, NOW, PRINCIPAL, with_user
from twogate.adapters.cedar import CedarConditions
from twogate.config import ConfigError, Settings
from twogate.config.file import parse_settings
from twogate.core.conditions import Asked
from twogate.core.principal import Principal
from twogate.core.session import Session
from twogate.policies import check_policies, conditions_of

TOOLS: Mapping[str, Any] = {
    "git.commit": {
        "class": "write",
        "arguments": {
            "amount": "long",
            "boom": "long",
            "path": "string",
            "price": "decimal",
            "confirm": "bool",
            "tags": "set<string>",
            "lines": "set<long>",
            "options": {"force": "bool", "deep": {"name": "string"}},
        },
    },
    "git.log": {"class": "read", "arguments": {"amount": "string"}},
    "git.push": {"class": "send"},
    "git.prompt:review": {"class": "read", "arguments": {"language": "string"}},
    "git.resource:file:///reports/**": {"class": "read"},
    "files.look": {"class": "read"},
}

COMMIT = 'action == Twogate::Action::"git.commit"'


def forbid(scope: str = "", when: str = "", name: str | None = None) -> str:
    """One policy, whose scope's action (if any) and condition are given."""
    identity = "" if name is None else f'@id("{name}") '
    return f"{identity}forbid(principal, {scope or 'action'}, resource){f' when {{ {when} }}' if when else ''};\n"


def document(*files: str, **changes: Any) -> dict[str, Any]:
    """A configuration whose policies are in these files."""
    return {
        "public_url": "http://localhost:8080",
        "listen": "127.0.0.1:8080",
        "store": "sqlite:///./twogate.db",
        "servers": {name: {"url": f"http://127.0.0.1:9/{name}"} for name in ("git", "files")},
        "tools": TOOLS,
        "tasks": {"report": {"tools": ["read", "write", "send"]}},
        "roles": {"executor": {"allow": ["read", "write", "send"]}, "reader": {"allow": ["read"]}},
        "agents": {
            "acme/robot": {
                "role": "executor",
                "tasks": ["report"],
                "default_task": "report",
                "bindings": [{"issuer": "embedded", "client_id": "robot"}],
            }
        },
        "tenants": {"acme": {"servers": ["git", "files"]}},
        "policies": {"files": list(files)},
        **changes,
    }


def load(directory: Path, cedar: str, **changes: Any) -> Settings:
    """The settings with one file of policies, which are in order.

    Raises:
        ConfigError: they are not.
    """
    (directory / "rules.cedar").write_text(cedar)
    path = directory / "twogate.yaml"
    settings = parse_settings(json.dumps(document("rules.cedar", **changes)), path)
    check_policies(path, settings)
    return settings


def problems(directory: Path, cedar: str, **changes: Any) -> list[str]:
    """What is wrong with a file of policies, as the operator is told; nothing if all is well."""
    try:
        load(directory, cedar, **changes)
    except ConfigError as error:
        return [f"{problem.key}: {problem.message}" for problem in error.problems]
    return []


def conditions(directory: Path, cedar: str, **changes: Any) -> CedarConditions:
    """What gate two asks, of one file of policies."""
    found = conditions_of(load(directory, cedar, **changes))
    assert found is not None
    return found


def principal(**changes: Any) -> Principal:
    """An agent with the role `executor`, and Alice behind it if she has groups or roles."""
    of_user = {name: value for name, value in changes.items() if name in ("groups", "roles")}
    rest = {name: value for name, value in changes.items() if name not in of_user}
    made = with_user(PRINCIPAL, **of_user) if of_user else PRINCIPAL
    return msgspec.structs.replace(made, **{"agent": AGENT, **rest})


def asked(
    target: str = "git.commit",
    arguments: Mapping[str, Any] | None = None,
    *,
    by: Principal | None = None,
    entry: str | None = None,
    method: str = "tools/call",
    params: Mapping[str, Any] | None = None,
    address: str = "192.0.2.1",
    now: int = NOW,
    task: str | None = "report",
) -> Asked:
    """One call."""
    caller = by or principal()
    session = None if task is None else Session("s1", caller.key, task, frozenset(), now - 60, now + 60)
    given = {"arguments": dict(arguments or {})} if params is None else params
    return Asked(caller, session, target, entry or target, method, given, address, now)
