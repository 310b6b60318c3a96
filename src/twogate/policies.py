"""From the setting `policies` to what gate two asks, and whether the policies are in order.

A part of the composition root, beside `sandboxes.py`. Cedar comes with the extra `cedar`; it is loaded only where
there are policies.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from twogate.config import ConfigError, Problem, Settings
from twogate.config.policy_schema import policy_actions, policy_schema

if TYPE_CHECKING:
    from twogate.adapters.cedar import CedarConditions
    from twogate.adapters.cedar_policies import CheckedPolicy, PolicyReader

_KEY = "policies.files"


def check_policies(config: Path, settings: Settings) -> None:
    """Refuse policies that could widen, that Cedar does not accept, or that can never forbid what they name.

    Raises:
        ConfigError: With every problem found.
    """
    _, problems = _read(settings)
    if problems:
        raise ConfigError(config, tuple(Problem(0, _KEY, text) for text in problems))


def policies_of(settings: Settings) -> tuple[CheckedPolicy, ...]:
    """The policies in force, in the order of their files.

    Raises:
        ValueError: they are not in order; see `check_policies`.
    """
    policies, problems = _read(settings)
    if problems:
        raise ValueError("; ".join(problems))
    return policies


def conditions_of(settings: Settings) -> CedarConditions | None:
    """What gate two asks; None without policies.

    Raises:
        ValueError: the policies are not in order; see `check_policies`.
    """
    policies = policies_of(settings)
    if settings.policies is None:
        return None
    from twogate.adapters.cedar import CedarConditions, JudgedEntry  # noqa: PLC0415 - an extra

    entries = {entry: JudgedEntry(one.kind, one.declared) for entry, one in policy_actions(settings).items()}
    return CedarConditions(policies, _reader(settings).schema, entries)


def schema_text(settings: Settings) -> str:
    """The schema that policies are checked against, as Cedar writes it.

    Raises:
        ModuleNotFoundError: the extra `cedar` is not installed.
    """
    return str(_reader(settings).schema)


def _read(settings: Settings) -> tuple[tuple[CheckedPolicy, ...], list[str]]:
    if settings.policies is None:
        return (), []
    if find_spec("cedarpy") is None:
        return (), ["policies need the extra `cedar`: install `twogate[cedar]`"]
    from twogate.adapters.cedar_policies import PolicySource  # noqa: PLC0415 - an extra

    sources = [PolicySource(file.path.name, file.text) for file in settings.policies.files]
    policies, problems = _reader(settings).read(sources)
    return policies, [f"{problem.file}:{problem.line}: {problem.message}" for problem in problems]


def _reader(settings: Settings) -> PolicyReader:
    from twogate.adapters.cedar_policies import KnownAction, PolicyReader  # noqa: PLC0415 - an extra

    actions = policy_actions(settings)
    schema = json.dumps(policy_schema(settings, actions))
    known = {entry: KnownAction(action.tool_class, action.declared) for entry, action in actions.items()}
    return PolicyReader(schema, known, frozenset(settings.tenants))
