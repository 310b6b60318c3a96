"""`twogate explain --request`: why a call that is on the audit trail was allowed or denied."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.audit_tail import Filter, tail
from twogate.cli.output import CommandError, one_line, print_json, print_table, print_text
from twogate.core.audit.record import AuditEvent
from twogate.flows.explain_past import explain_past
from twogate.flows.explain_stages import ExplainedStep

MOST: Final = 1000
"""Events of one request that are looked at; a long stream has some for each question of its server."""


def explain_request(directory: Path, request: str, *, as_json: bool) -> None:
    """Print what the trail in a directory says of one request. The whole trail is read, however long it is.

    Raises:
        CommandError: nothing there is of such a request.
    """
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory; nothing was written there yet", code="not_found")
    entries = tail(directory, MOST, where=Filter(request=request)) if request else ()
    events = [entry.event for entry in entries if entry.event is not None]
    if not events:
        raise CommandError(
            f"no event on the trail of this machine is of a request {request!r}; `twogate audit tail --json` shows"
            " each event's `request`",
            code="not_found",
        )
    past = explain_past(events)
    if as_json:
        document = {"request": request, "decision": past.decision, "reason": past.reason or None, "step": past.step}
        print_json({**document, "text": past.text, "steps": past.steps, "events": [_plain(event) for event in events]})
        return
    if past.steps:
        print_table(("Step", "Result", "Because"), [_row(step) for step in past.steps])
        print_text()
    # What the trail holds may not begin a line that looks like the command's own.
    print_text(one_line(f"{past.decision}: {past.text}" if past.decision != "none" else past.text))


def _row(step: ExplainedStep) -> tuple[str, str, str]:
    return step.step, step.result, step.because


def _plain(event: AuditEvent) -> object:
    return msgspec.to_builtins(event)
