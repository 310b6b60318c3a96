"""What a server shows of itself, for a person to read before approving it.

Everything is shown, and nothing is cut: what is left out could be what matters. What cannot be seen, or would move
what stands around it, is written out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import msgspec

from twogate.core.pins import MISSING, definition_of, differences
from twogate.core.shown import shown
from twogate.flows.pin_admin import Proposal

NEW, CHANGED, UNCHANGED = "not approved", "changed", "approved"


def state_of(proposal: Proposal) -> str:
    """How what is shown relates to what was approved."""
    if proposal.approved is None:
        return NEW
    return UNCHANGED if proposal.unchanged else CHANGED


def blocks(proposals: Sequence[Proposal]) -> Iterator[str]:
    """Each proposal in full, once for all tenants that are shown the same."""
    same: dict[tuple[str, bytes, bytes | None, str | None], list[str]] = {}
    for item in proposals:
        same.setdefault((item.target, item.definition, item.approved, item.problem), []).append(item.tenant)
    for (target, definition, approved, problem), tenants in same.items():
        item = Proposal("", "", target, definition, approved, problem)
        yield f"{visible(target)} ({', '.join(tenants)}): {state_of(item)}"
        if problem is not None:
            yield f"  CANNOT BE APPROVED: {visible(problem)}"
        yield from changes(definition, approved)
        yield ""


def changes(definition: bytes, approved: bytes | None) -> Iterator[str]:
    """The whole definition if nothing was approved, else each member that differs."""
    after: object = msgspec.json.decode(definition)
    if approved is None:
        yield from (f"  {visible(line)}" for line in msgspec.json.format(definition, indent=2).decode().split("\n"))
        return
    for difference in differences(msgspec.json.decode(approved), after):
        yield f"  {visible('.'.join(difference.path)) or 'the text'}"
        yield from (
            f"    {sign} {visible(definition_of(value).decode())}"
            for sign, value in (("-", difference.before), ("+", difference.after))
            if value is not MISSING
        )


def changed_places(definition: bytes, approved: bytes) -> list[dict[str, object]]:
    """Each member that differs, for programs."""
    found = differences(msgspec.json.decode(approved), msgspec.json.decode(definition))
    return [
        {"path": list(item.path)}
        | ({} if item.before is MISSING else {"before": item.before})
        | ({} if item.after is MISSING else {"after": item.after})
        for item in found
    ]


def visible(text: str) -> str:
    """The text with everything written out that cannot be seen; whole."""
    # Spaces of other widths too: a line that was taken away would look like the one that was put there.
    spaced = "".join(f"[U+{ord(c):04X}]" if c != " " and unicodedata.category(c) == "Zs" else c for c in text)
    return shown(spaced, len(spaced))
