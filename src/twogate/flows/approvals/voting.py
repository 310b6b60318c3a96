"""People's votes on parked calls: who may, what their passkey signs, and how that is kept (DESIGN decision 8).

An approval is a passkey's signature over `core.approval.signed_form`, with user verification, made in our own page. It
is kept in the audit trail with the key that verifies it, so that anybody can check it later without this server. Saying
no needs no signature: whoever may not run anything by it may always stop a call.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from twogate.core import webauthn
from twogate.core.approval import MAX_COMMENT, Decision, Duty, State, Vote, challenge, may_vote, signed_form
from twogate.core.approval_grounds import duties_now
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import UserId
from twogate.core.shown import shown
from twogate.flows.approvals.parked import Limit, Parked, ParkedStore, Parking
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.passkeys import PasskeyStore, PasskeyVerifier
from twogate.flows.authserver.people import User
from twogate.flows.environment import Clock

MAX_APPROVALS: Final = 30
"""Calls that one person may approve within `WINDOW`: whoever approves more does not read any more."""

WINDOW: Final = 3600
"""Seconds."""

OPERATOR: Final = "operator:"
"""Before the name of an operating system's account, where a person's subject stands otherwise; no subject has it."""

_PATIENCE: Final = 300_000
"""Milliseconds that a browser gives its person for the passkey."""


class Approver(msgspec.Struct, frozen=True):
    """A person who is logged in now, and what they may do. `issuer` is our own server's: it vouches for them.

    `known_as` is who they are at other issuers: an agent may call for them with a token of their identity provider.
    """

    user: User
    issuer: str
    duties: frozenset[Duty]
    known_as: frozenset[UserId] = frozenset()

    @property
    def ids(self) -> frozenset[UserId]:
        """Who they are, where they are the user behind an agent."""
        return self.known_as | {UserId(self.issuer, self.user.subject)}


class Evidence(msgspec.Struct, frozen=True):
    """What an approval can be verified by, offline. All but `response` is base64url.

    `form` is what was signed for; `credential_id` and `public_key` (COSE) are the passkey's as enrolled; `response` is
    the browser's answer, JSON; `rp_id` and `origin` are what the answer must be for.
    """

    form: str
    credential_id: str
    public_key: str
    response: str
    rp_id: str
    origin: str


class Voting:
    """Takes votes."""

    def __init__(
        self,
        parking: Parking,
        store: ParkedStore,
        passkeys: PasskeyStore,
        verifier: PasskeyVerifier,
        audit: AuditSink,
        clock: Clock,
        *,
        rp_id: str,
        origin: str,
    ) -> None:
        self._parking = parking
        self._store = store
        self._passkeys = passkeys
        self._verifier = verifier
        self._audit = audit
        self._clock = clock
        self._rp_id = rp_id
        self._origin = origin

    async def find(self, approval: str, approver: Approver) -> Parked:
        """A parked call of the approver's tenant.

        Raises:
            GateError: NOT_FOUND, also for another tenant's; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked = await self._parking.current(approval)
        if parked is None or parked.call.tenant != approver.user.tenant:
            raise GateError(ErrorCode.NOT_FOUND, "no such approval in this tenant")
        return parked

    def may_vote(self, parked: Parked, approver: Approver) -> bool:
        """Whether this person may decide this call now."""
        return (
            parked.state is State.PENDING
            and not approver.user.disabled
            and approver.user.subject not in {vote.approver for vote in parked.votes}
            and all(may_vote(parked.call, one, approver.duties, self._clock.now()) for one in approver.ids)
        )

    async def options(self, parked: Parked, approver: Approver, decision: Decision) -> dict[str, object]:
        """What the browser is asked for: one of the approver's own passkeys, over this call and this decision.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        keys = await self._passkeys.list(approver.user.tenant, approver.user.subject)
        return {
            "challenge": webauthn.encode(challenge(parked.call, decision, approver.user.subject)),
            "rpId": self._rp_id,
            "userVerification": "required",
            "allowCredentials": [{"type": "public-key", "id": key.credential_id} for key in keys],
            "timeout": _PATIENCE,
        }

    async def approve(self, approval: str, approver: Approver, answer: str, comment: str) -> Parked:
        """Approve a call, with the answer of the approver's browser to `options` for APPROVE.

        Raises:
            GateError: NOT_FOUND, APPROVER_REFUSED, APPROVALS_LIMITED, APPROVAL_DECIDED, PASSKEY_REFUSED;
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked = await self._open(approval, approver)
        evidence = await self._verify(parked, approver, answer)
        vote = Vote(approver.user.subject, Decision.APPROVE, self._clock.now(), _clean(comment))
        try:
            return await self._vote(parked, approver, vote, evidence)
        except GateError as error:
            if error.code is ErrorCode.APPROVALS_LIMITED:
                await self._refused(parked, approver, error.code)
            raise

    async def deny(self, approval: str, approver: Approver, comment: str) -> Parked:
        """Deny a call.

        Raises:
            GateError: NOT_FOUND, APPROVER_REFUSED, APPROVAL_DECIDED; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked = await self._open(approval, approver)
        vote = Vote(approver.user.subject, Decision.DENY, self._clock.now(), _clean(comment))
        return await self._vote(parked, approver, vote, None)

    async def deny_as_operator(self, approval: str, name: str, comment: str) -> Parked:
        """Deny a call for somebody at the operator's keyboard, of whom only the account's name is known.

        Raises:
            GateError: NOT_FOUND, APPROVAL_DECIDED; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        parked = await self._parking.current(approval)
        if parked is None:
            raise GateError(ErrorCode.NOT_FOUND, f"there is no approval {approval}")
        if parked.state is not State.PENDING:
            raise GateError(ErrorCode.APPROVAL_DECIDED, f"the call is {parked.state.value}")
        who = OPERATOR + name
        return await self._count(parked, Vote(who, Decision.DENY, self._clock.now(), _clean(comment)), None, who)

    async def _open(self, approval: str, approver: Approver) -> Parked:
        parked = await self.find(approval, approver)
        if parked.state is not State.PENDING:
            raise GateError(ErrorCode.APPROVAL_DECIDED, f"the call is {parked.state.value}")
        if approver.user.subject in {vote.approver for vote in parked.votes}:
            raise GateError(ErrorCode.APPROVAL_DECIDED, "this person has voted")
        if not self.may_vote(parked, approver):
            await self._refused(parked, approver, ErrorCode.APPROVER_REFUSED)
            raise GateError(ErrorCode.APPROVER_REFUSED, "no duty to decide this call, or it is made for this person")
        return parked

    async def _verify(self, parked: Parked, approver: Approver, text: str) -> Evidence:
        answer = webauthn.parse_answer(text)
        # 1. What was signed is this very decision on this very call by this very person.
        form = signed_form(parked.call, Decision.APPROVE, approver.user.subject)
        if not hmac.compare_digest(answer.challenge, challenge(parked.call, Decision.APPROVE, approver.user.subject)):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey signed something else")
        # 2. The passkey is this person's.
        passkey = await self._passkeys.get(answer.credential_id)
        if passkey is None or (passkey.tenant, passkey.subject) != (approver.user.tenant, approver.user.subject):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey is not this person's")
        # 3. Signature, origin, flags (user verification) and count.
        count = self._verifier.verify_used(answer, answer.challenge, passkey.public_key, passkey.sign_count)
        if not await self._passkeys.used(passkey.credential_id, count, self._clock.now()):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey was removed or used meanwhile")
        return Evidence(
            webauthn.encode(form), passkey.credential_id, passkey.public_key, answer.text, self._rp_id, self._origin
        )

    async def _vote(self, parked: Parked, approver: Approver, vote: Vote, evidence: Evidence | None) -> Parked:
        return await self._count(parked, vote, evidence, f"{approver.user.tenant}/{approver.user.name}")

    async def _count(self, parked: Parked, vote: Vote, evidence: Evidence | None, who: str) -> Parked:
        kept = "" if evidence is None else msgspec.json.encode(evidence).decode()

        async def announce(state: State) -> None:
            event = self._event(EventKind.APPROVAL_VOTED, parked, who, vote.comment)
            await self._audit.append(
                msgspec.structs.replace(event, decision=vote.decision.value, outcome=state.value, evidence=kept)
            )

        limit = Limit(MAX_APPROVALS, WINDOW) if vote.decision is Decision.APPROVE else None
        counted = await self._store.vote(parked.call.id, vote, kept, announce, limit)
        if counted is None:
            raise GateError(ErrorCode.APPROVAL_DECIDED, "the call was decided meanwhile, or this person has voted")
        return counted

    async def _refused(self, parked: Parked, approver: Approver, code: ErrorCode) -> None:
        event = self._event(EventKind.APPROVAL_REFUSED, parked, f"{approver.user.tenant}/{approver.user.name}", "")
        await self._audit.append(msgspec.structs.replace(event, reason=code.value, decision="deny", anomaly=True))

    def _event(self, kind: EventKind, parked: Parked, who: str, comment: str) -> AuditEvent:
        event = self._parking.event(kind, parked.call, comment)
        # From here on `client` names who decided: `user` is whom the call is made for.
        return msgspec.structs.replace(event, client=who)


def duties_of(user: User, by_group: Mapping[str, Sequence[Duty]]) -> frozenset[Duty]:
    """A person's duties: their own, and those of their groups."""
    return duties_now(user.duties, user.groups, by_group)


def _clean(comment: str) -> str:
    return shown(comment.strip(), MAX_COMMENT)
