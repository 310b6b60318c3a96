"""Entries: how the configuration names targets, and which entry classifies a target.

    server.NAME            a tool
    server.tool:NAME       a tool whose name begins like another kind of target (`resource:`, `prompt:`, `tool:`)
    server.prompt:NAME     a prompt
    server.resource:URI    a resource or a template, exactly
    server.resource:GLOB   the resources that a pattern matches (`core.resource_pattern`)

A target has at most one entry: the exact one, else of the patterns that match it the one with the longest literal
beginning. Roles, tasks and scopes name entries by their text. A pattern is no more than its text there, so who lists
`files.resource:file:///reports/**` says nothing of what has an entry of its own beneath it.

A template is a target of its own. A pattern classifies it only if it matches whatever the template may expand to and
no other entry could classify some of that; else it needs an entry that names it exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

from twogate.core.errors import GateError
from twogate.core.message import MAX_NAME, check_name
from twogate.core.protocol import RESERVED, prompt_target, resource_target, tool_target
from twogate.core.resource_pattern import Pattern, Template, irregularity, is_template, parse_pattern, parse_template

WITHHELD: Final = "!"
"""Stands before an entry in a session's set that the session does not hold: see `Entries.around`."""

# Tool names as MCP has them since 2025-11-25 (server/tools, Tool Names); the reserved words bring the colon.
_TOOL: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_RESERVED_TOOL: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_RESOURCE: Final = "resource:"
_PROMPT: Final = "prompt:"
_ESCAPED: Final = "tool:"


class Entry(msgspec.Struct, frozen=True):
    """One entry. `target` is the only one that it names; a pattern has none. `pattern` is every resource entry's."""

    name: str
    server: str
    target: str | None
    pattern: Pattern | None

    @property
    def is_pattern(self) -> bool:
        """Whether it may classify several targets."""
        return self.target is None

    @property
    def sample(self) -> str:
        """A target that it names, for tables and explanations."""
        return self.target if self.target is not None else resource_target(self.server, _pattern(self).sample)


@lru_cache(maxsize=65_536)  # the same texts come again with each session's set
def parse_entry(name: str) -> Entry:
    """Read an entry.

    Raises:
        ValueError: it is none; the text says what to write.
    """
    server, dot, rest = name.partition(".")
    if not server or not dot:
        raise ValueError("a target is written server.tool, server.resource:URI or server.prompt:NAME")
    if rest.startswith(_RESOURCE):
        uri = _checked(rest.removeprefix(_RESOURCE), "a resource's URI")
        pattern = parse_pattern(uri)
        target = resource_target(server, pattern.prefix) if pattern.exact else None
        return Entry(name, server, target, pattern)
    if rest.startswith(_PROMPT):
        return Entry(name, server, prompt_target(server, _checked(rest.removeprefix(_PROMPT), "a prompt's name")), None)
    if rest.startswith(_ESCAPED):
        tool = rest.removeprefix(_ESCAPED)
        if not tool.startswith(RESERVED):
            raise ValueError(f"write {server}.{tool}; `tool:` is only for names that begin with {', '.join(RESERVED)}")
        if not _RESERVED_TOOL.fullmatch(tool):
            raise ValueError("a tool's name is 1 to 128 of letters, digits and _ - . / (and : behind a reserved word)")
        return Entry(name, server, tool_target(server, tool), None)
    if not _TOOL.fullmatch(rest):
        raise ValueError(
            "a target is written server.tool (1 to 128 of letters, digits and _ - . /), server.resource:URI or "
            "server.prompt:NAME"
        )
    return Entry(name, server, tool_target(server, rest), None)


class Entries:
    """Which entry classifies a target. `exact` holds the entry of each target that has one of its own."""

    def __init__(self, names: Iterable[str]) -> None:
        """Read every entry.

        Raises:
            ValueError: one is malformed.
        """
        self.by_name: Mapping[str, Entry] = MappingProxyType({name: parse_entry(name) for name in names})
        self.exact: dict[str, str] = {}
        self._patterns: dict[str, list[Entry]] = {}
        self._resources: dict[str, list[Entry]] = {}
        for entry in self.by_name.values():
            if entry.target is not None:
                self.exact[entry.target] = entry.name
            if entry.pattern is not None:
                self._resources.setdefault(entry.server, []).append(entry)
                if entry.is_pattern:
                    self._patterns.setdefault(entry.server, []).append(entry)
        for patterns in self._patterns.values():
            # The text decides between equals only where `ambiguous` was not asked.
            patterns.sort(key=lambda entry: (-_rank(entry), entry.name))

    def search(self, target: str) -> str | None:
        """The entry whose pattern classifies a target that has no entry of its own."""
        server, _, rest = target.partition(".")
        patterns = self._patterns.get(server)
        if patterns is None or not rest.startswith(_RESOURCE):
            return None
        uri = rest.removeprefix(_RESOURCE)
        if len(uri) > MAX_NAME:
            return None
        if is_template(uri):
            return self._of_template(server, uri)
        if irregularity(uri) is not None:
            return None
        for entry in patterns:
            if _pattern(entry).matches(uri):
                return entry.name
        return None

    def around(self, held: frozenset[str]) -> frozenset[str]:
        """What must stand beside the entries of a session so that their patterns can never reach more than now.

        Those are the entries that it does not hold beneath a pattern that it holds, marked by WITHHELD: were one taken
        out of the configuration, the pattern would classify what was that entry's.
        """
        found: set[str] = set()
        for server, patterns in self._patterns.items():
            granted = [_pattern(entry) for entry in patterns if entry.name in held]
            found |= {
                WITHHELD + entry.name
                for entry in self._resources[server]
                if entry.name not in held and any(_pattern(entry).prefix.startswith(mine.prefix) for mine in granted)
            }
        return frozenset(found)

    def ambiguous(self) -> Iterable[tuple[str, str]]:
        """Pairs of patterns of which neither is the more specific, though both may match one URI."""
        for patterns in self._patterns.values():
            for at, entry in enumerate(patterns):
                mine = _pattern(entry)
                for other in patterns[at + 1 :]:
                    its = _pattern(other)
                    if mine.prefix == its.prefix and mine.overlaps(its):
                        yield entry.name, other.name

    def _of_template(self, server: str, uri: str) -> str | None:
        template = parse_template(uri)
        if template is None:
            return None
        best = next((entry for entry in self._patterns[server] if _pattern(entry).matches(template.sample)), None)
        if best is None:
            return None
        rivals = (
            entry
            for entry in self._resources[server]
            if entry is not best and (not entry.is_pattern or _rank(entry) >= _rank(best))
        )
        return None if any(_expands_into(template, rival) for rival in rivals) else best.name


def outgrown(held: frozenset[str], entry: str, target: str) -> bool:
    """Whether a pattern that a session holds may match this target only since the configuration changed.

    `entry` is that pattern's entry, and `held` the session's set with what `Entries.around` gave when it was made.
    """
    uri = target.partition(".")[2].removeprefix(_RESOURCE)
    mine = parse_entry(entry)
    beneath = [
        (other, withheld)
        for other, withheld in _resources(held)
        if other.server == mine.server and _pattern(other).prefix.startswith(_pattern(mine).prefix)
    ]
    if not is_template(uri):
        return any(withheld and _pattern(other).matches(uri) for other, withheld in beneath)
    template = parse_template(uri)
    return template is None or any(other.name != entry and _expands_into(template, other) for other, _ in beneath)


@lru_cache(maxsize=8192)
def _resources(held: frozenset[str]) -> tuple[tuple[Entry, bool], ...]:
    """The resource entries in a session's set, and whether they are withheld."""
    names = (name for name in held if f".{_RESOURCE}" in name)
    read = ((parse_entry(name.removeprefix(WITHHELD)), name.startswith(WITHHELD)) for name in names)
    return tuple((entry, withheld) for entry, withheld in read if entry.pattern is not None)


def _expands_into(template: Template, entry: Entry) -> bool:
    # Another template is a target of its own, and no expansion.
    pattern = _pattern(entry)
    return not is_template(pattern.prefix) and pattern.overlaps(template.pattern)


def _rank(entry: Entry) -> int:
    return len(_pattern(entry).prefix)


def _pattern(entry: Entry) -> Pattern:
    if entry.pattern is None:
        raise ValueError(f"{entry.name} names no resource")
    return entry.pattern


def _checked(text: str, what: str) -> str:
    try:
        return check_name(text, what)
    except GateError as error:
        raise ValueError(error.debug) from None
