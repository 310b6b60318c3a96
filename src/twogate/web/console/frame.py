"""What the console's pages have in common: which there are, for whom, and how they lead to each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from twogate.core.approval import Duty

ROOT: Final = "/console"

EVERYBODY: Final = frozenset(Duty)
LOOKERS: Final = frozenset({Duty.VIEWER, Duty.OPERATOR, Duty.ADMINISTRATOR})
"""Who sees how the tenant is set up and what its agents do."""
OPERATORS: Final = frozenset({Duty.OPERATOR, Duty.ADMINISTRATOR})
"""Who ends sessions and pauses agents."""


class ConsolePage(NamedTuple):
    """A page: the word behind `/console/`, what it is called, and the duties of which any one opens it."""

    name: str
    label: str
    duties: frozenset[Duty]

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{ROOT}/{self.name}" if self.name else ROOT


OVERVIEW: Final = ConsolePage("", "Overview", EVERYBODY)
APPROVALS: Final = ConsolePage("approvals", "Approvals", EVERYBODY)
TOKENS: Final = ConsolePage("tokens", "Tokens", EVERYBODY)
SESSIONS: Final = ConsolePage("sessions", "Sessions", LOOKERS)
AGENTS: Final = ConsolePage("agents", "Agents", LOOKERS)
TOOLS: Final = ConsolePage("tools", "Tools", LOOKERS)
MATRIX: Final = ConsolePage("matrix", "Access", LOOKERS)
EXPLAIN: Final = ConsolePage("explain", "Explain", LOOKERS)
AUDIT: Final = ConsolePage("audit", "Audit", LOOKERS)
PAGES: Final = (OVERVIEW, APPROVALS, TOKENS, SESSIONS, AGENTS, TOOLS, MATRIX, EXPLAIN, AUDIT)


class Link(NamedTuple):
    """One entry of the navigation."""

    path: str
    label: str
    current: bool


def navigation(duties: Collection[Duty], current: ConsolePage, without: Collection[ConsolePage] = ()) -> Sequence[Link]:
    """The pages that somebody with these duties may open, of those that there are."""
    return [
        Link(page.path, page.label, page is current)
        for page in PAGES
        if page not in without and not page.duties.isdisjoint(duties)
    ]
