"""Whether what the settings say about policies holds together; the policies' text is checked by `twogate.policies`."""

from __future__ import annotations

from collections.abc import Iterator

from twogate.config.document import KeyPath
from twogate.config.policy_schema import PolicyAction, action_of, entry_places
from twogate.config.settings import Settings
from twogate.core.conditions import ArgumentType, Kind, kind_of

Found = tuple[KeyPath, str]


def policy_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem; `broken` are the places that could not be read themselves."""
    known: dict[str, tuple[KeyPath, PolicyAction]] = {}
    for place, entry, tool in entry_places(settings):
        at = (*place, "arguments")
        if tool.arguments:
            kind = kind_of(entry)
            if settings.policies is None and ("policies",) not in broken:
                yield at, "are what policies may look at, and there are no `policies`; remove them"
            elif kind is Kind.RESOURCE:
                yield at, "is not for resources: policies see their URI as context.arguments.uri already"
            elif kind is Kind.PROMPT and any(value != ArgumentType.STRING for value in tool.arguments.values()):
                yield at, f"of a prompt are texts (MCP, prompts/get): declare each as {ArgumentType.STRING}"
        if settings.policies is None:
            continue
        action = action_of(entry, tool)
        first, other = known.setdefault(entry, (place, action))
        if other != action:
            # A policy that names it could mean only one of them.
            text = f"has another class or other arguments than {'.'.join(map(str, first))}"
            yield place, f"{text}; with `policies` an entry means the same for every tenant"
