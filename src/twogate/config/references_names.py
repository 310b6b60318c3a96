"""Whether names between settings refer to something: what every finder of problems asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from twogate.config.document import KeyPath
from twogate.config.settings import Settings
from twogate.config.tenants import OwnSection, own, tenant_tools
from twogate.core.access import ToolClass

Found = tuple[KeyPath, str]
"""A problem: where, and what to do."""

_MAX_SHOWN = 8


class Names:
    """The names of the settings; `broken` as in `References`.

    What belongs to a section that could not be read is reported already, so it counts as known.
    """

    def __init__(self, settings: Settings, broken: frozenset[KeyPath] = frozenset()) -> None:
        self._settings = settings
        self._broken = broken

    def _entries(self, place: KeyPath, entries: tuple[str, ...], tenant: str | None = None) -> Iterator[Found]:
        """Classes, and entries of the shared `tools` or the tenant's own."""
        tools = self._settings.tools if tenant is None else tenant_tools(self._settings, tenant)
        classes = [item.value for item in ToolClass]
        for index, entry in enumerate(entries):
            if entry in classes or not self._has("tools") or entry in tools or self._is_broken("tools", entry):
                continue
            server, dot, _ = entry.partition(".")
            at = (*place, index)
            if not dot:
                yield at, f"{entry!r} is neither a class nor an entry of tools{hint(entry, classes)}"
            elif self._has("servers") and not self._knows("servers", server):
                yield at, f"unknown server {server!r} in {entry!r}{hint(server, self._settings.servers)}"
            else:
                known = [target for target in tools if target.startswith(f"{server}.")]
                yield at, f"{entry!r} is not classified; add `{entry}: {{class: …}}` to tools{hint(entry, known)}"

    def _name(self, section: str, name: str, noun: str, place: KeyPath) -> Iterator[Found]:
        if self._has(section) and not self._knows(section, name):
            known: Mapping[str, object] = getattr(self._settings, section)
            yield place, f"unknown {noun} {name!r}; add it to {section}{hint(name, known)}"

    def _own_name(
        self, section: OwnSection, tenants: Iterable[str], name: str, noun: str, place: KeyPath
    ) -> Iterator[Found]:
        """A name that may be shared, or one of these tenants' own."""
        known = list[str](getattr(self._settings, section))
        for tenant in tenants:
            if self._is_broken("tenants", tenant) or not self._has("tenants"):
                return
            known += own(self._settings, section, tenant)
        if name not in known and not self._is_broken(section, name) and self._has(section):
            yield place, f"unknown {noun} {name!r}; add it to {section}{hint(name, known)}"

    def _has(self, section: str) -> bool:
        return (section,) not in self._broken

    def _is_broken(self, section: str, name: str) -> bool:
        return (section, name) in self._broken

    def _knows(self, section: str, name: str) -> bool:
        return self._is_broken(section, name) or name in getattr(self._settings, section)


def hint(name: str, known: Iterable[str]) -> str:
    """Which of the known names was probably meant, or which there are if they are few."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    if names and len(names) <= _MAX_SHOWN:
        return f" (known: {', '.join(names)})"
    return ""
