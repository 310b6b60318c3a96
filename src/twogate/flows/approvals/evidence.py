"""Verifying an approval later, from the audit trail alone (DESIGN decision 8).

What a passkey signed stands in the event of the vote, with the key that verifies it. Nothing is asked of any server.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, cast

import msgspec

from twogate.core import strict_json, webauthn
from twogate.core.approval import FORM, Decision
from twogate.core.audit.record import AuditEvent
from twogate.core.errors import GateError
from twogate.flows.approvals.voting import Evidence
from twogate.flows.authserver.passkeys import PasskeyVerifier

VerifierOf = Callable[[str, str], PasskeyVerifier]
"""Makes the verifier for answers on an origin (first) by passkeys of an RP ID (second)."""

MICROSECONDS = 1_000_000
"""In a second: events tell their time in these."""

_MAX_FORM = 16 * 1024
_DEPTH = 4


class Verified(msgspec.Struct, frozen=True):
    """An approval as its event tells it. `problem` says why it does not hold; '' if it does.

    `approver` and `at` are the event's words. `subject` (the person's) and `digest` (the call's) are what was signed,
    '' if that cannot be read. The key stands in the event too: whose it is says the trail, as far as that is whole.
    """

    approval: str
    tool: str
    approver: str
    at: int
    origin: str
    subject: str = ""
    digest: str = ""
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return not self.problem


def verify_event(event: AuditEvent, verifier_of: VerifierOf, origin: str | None = None) -> Verified:
    """Check the event of an approval; with `origin` it must have been made there.

    1. What was signed is this form; 2. the passkey signed it, with the person there; 3. the form says what the event
    says, and that came in time.
    """
    made = Verified(event.request, event.target, event.client, event.at, "")
    try:
        evidence = msgspec.json.decode(event.evidence.encode(), type=Evidence)
    except msgspec.MsgspecError as error:
        return msgspec.structs.replace(made, problem=f"its evidence cannot be read: {error}")
    made = msgspec.structs.replace(made, origin=evidence.origin)
    try:
        said = _signed(evidence, verifier_of, origin)
    except GateError as error:
        said = f"the signature does not hold: {error.debug or error.code.value}"
    if isinstance(said, str):
        return msgspec.structs.replace(made, problem=said)
    return msgspec.structs.replace(
        made, subject=str(said.get("approver")), digest=str(said.get("digest")), problem=_difference(event, said)
    )


def _signed(evidence: Evidence, verifier_of: VerifierOf, origin: str | None) -> dict[str, Any] | str:
    """What was signed, or why that does not hold."""
    if origin is not None and evidence.origin != origin:
        return f"it was made on {evidence.origin}"
    form = webauthn.decode(evidence.form)
    # 1.
    answer = webauthn.parse_answer(evidence.response)
    expected = hashlib.sha256(form).digest()
    if not hmac.compare_digest(answer.challenge, expected) or answer.credential_id != evidence.credential_id:
        return "the passkey signed something else"
    # 2. The count was compared when it was made; without the count before, there is nothing to compare it with.
    verifier_of(evidence.origin, evidence.rp_id).verify_used(answer, expected, evidence.public_key, 0)
    # 3.
    head, _, body = form.partition(b"\n")
    said: object = strict_json.decode(body, max_bytes=_MAX_FORM, max_depth=_DEPTH)
    if head != FORM or not isinstance(said, dict):
        return "what was signed is no approval"
    return cast("dict[str, Any]", said)


def _difference(event: AuditEvent, said: dict[str, Any]) -> str:
    user = {"issuer": event.user_issuer, "subject": event.user} if event.user else None
    for name, recorded in (
        ("approval", event.request),
        ("decision", Decision.APPROVE.value if event.decision == Decision.APPROVE.value else None),
        ("tenant", event.tenant),
        ("issuer", event.issuer),
        ("agent", event.agent),
        ("user", user),
        ("sid", event.session),
        ("tool", event.target),
    ):
        if said.get(name) != recorded:
            return f"what was signed says another {name} than the event"
    # The tool's name begins with its server's.
    if not event.target.startswith(f"{event.server}."):
        return "what was signed says another server than the event"
    deadline = said.get("deadline")
    if not isinstance(deadline, int) or event.at >= deadline * MICROSECONDS:
        return "the event is of a time when nobody could approve it any more"
    return ""
