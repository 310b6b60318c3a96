"""People's votes: who may, what their passkey must have signed, and what stays as evidence."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from webauthn import verify_authentication_response
from webauthn.helpers import encode_cbor

from approvallab import NOW, PARAMS, RULE, VotingLab, open_approval_lab
from softkey import UP, SoftKey, b64, unb64
from tokenlab import ISSUER
from twogate.core.approval import Decision, Duty, State, signed_form
from twogate.core.audit.record import EventKind
from twogate.core.errors import GateError
from twogate.core.principal import UserId
from twogate.flows.approvals.parked import MAX_RESULT, Parked
from twogate.flows.approvals.voting import MAX_APPROVALS, WINDOW, Approver, Evidence, duties_of
from twogate.flows.authserver.passkeys import Passkey
from twogate.flows.authserver.people import User


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[VotingLab]:
    async with open_approval_lab(tmp_path) as made:
        yield made


async def refusal(lab: VotingLab, parked: Parked, approver: Approver, answer: str) -> str:
    with pytest.raises(GateError) as refused:
        await lab.voting.approve(parked.call.id, approver, answer, "")
    return refused.value.code.value


async def test_an_approval_grants_the_call_and_its_evidence_verifies_by_itself(lab: VotingLab) -> None:
    parked = await lab.park()
    granted = await lab.voting.approve(parked.call.id, lab.approver(), await lab.answer(parked), " fine\u202e ")
    assert (granted.state, [vote.approver for vote in granted.votes]) == (State.GRANTED, [lab.bob.subject])
    (event,) = lab.events(EventKind.APPROVAL_VOTED)
    assert (event.decision, event.outcome, event.client) == ("approve", "granted", "acme/bob")
    assert event.detail == "fine[U+202E]"
    kept = msgspec.json.decode(event.evidence, type=Evidence)
    assert unb64(kept.form) == signed_form(parked.call, Decision.APPROVE, lab.bob.subject)
    # By the library alone, from nothing but the evidence: what anybody could do who has the trail.
    verified = verify_authentication_response(
        credential=kept.response,
        expected_challenge=hashlib.sha256(unb64(kept.form)).digest(),
        expected_rp_id=kept.rp_id,
        expected_origin=kept.origin,
        credential_public_key=unb64(kept.public_key),
        credential_current_sign_count=0,
        require_user_verification=True,
    )
    assert verified.user_verified


async def test_the_call_is_kept_encrypted_and_given_back_to_those_who_decide(lab: VotingLab) -> None:
    parked = await lab.park()
    assert b"git_commit" not in parked.sealed
    assert await lab.parking.params(parked) == PARAMS
    (event,) = lab.events(EventKind.APPROVAL_REQUESTED)
    assert (event.target, event.request, event.agent) == ("git.git_commit", parked.call.id, "reporter")
    assert "first" not in repr(event)


async def test_a_signature_that_denies_is_none_that_approves(lab: VotingLab) -> None:
    parked = await lab.park()
    answer = await lab.answer(parked, Decision.DENY)
    assert await refusal(lab, parked, lab.approver(), answer) == "passkey_refused"


async def test_a_signature_for_another_call_or_person_is_none_for_this(lab: VotingLab) -> None:
    parked, other = await lab.park(), await lab.park("ef" * 32)
    assert await refusal(lab, parked, lab.approver(), await lab.answer(other)) == "passkey_refused"
    eve, _ = await lab.people.add("eve", duties=(Duty.APPROVER,))
    # Bob's passkey over what Eve would sign, and Eve with what Bob signed.
    assert await refusal(lab, parked, lab.approver(eve), await lab.answer(parked, user=eve)) == "passkey_refused"
    assert await refusal(lab, parked, lab.approver(eve), await lab.answer(parked)) == "passkey_refused"
    current = await lab.parking.current(parked.call.id)
    assert current is not None
    assert current.state is State.PENDING


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": UP},
        {"origin": "https://evil.example"},
        {"crossOrigin": True},
        {"topOrigin": "https://evil.example"},
        {"type": "webauthn.create"},
    ],
    ids=["no user verification", "another origin", "a frame", "a page in a page", "an enrolment"],
)
async def test_only_a_verified_person_in_our_own_page_approves(lab: VotingLab, changes: dict[str, Any]) -> None:
    parked = await lab.park()
    assert await refusal(lab, parked, lab.approver(), await lab.answer(parked, **changes)) == "passkey_refused"


async def test_one_answer_counts_once(lab: VotingLab) -> None:
    two = msgspec.structs.replace(RULE, people=2)
    parked = await lab.park(rule=two)
    answer = await lab.answer(parked)
    assert (await lab.voting.approve(parked.call.id, lab.approver(), answer, "")).state is State.PENDING
    assert await refusal(lab, parked, lab.approver(), answer) == "approval_decided"
    assert await refusal(lab, parked, lab.approver(), await lab.answer(parked)) == "approval_decided"


async def test_two_people_approve_where_the_rule_wants_two(lab: VotingLab) -> None:
    parked = await lab.park(rule=msgspec.structs.replace(RULE, people=2))
    await lab.voting.approve(parked.call.id, lab.approver(), await lab.answer(parked), "")
    eve, _ = await lab.people.add("eve", duties=(Duty.APPROVER,))
    lab.key = await lab.people.with_passkey(eve)
    granted = await lab.voting.approve(parked.call.id, lab.approver(eve), await lab.answer(parked, user=eve), "")
    assert granted.state is State.GRANTED


async def test_one_who_denies_ends_it_without_a_passkey(lab: VotingLab) -> None:
    parked = await lab.park()
    denied = await lab.voting.deny(parked.call.id, lab.approver(), "not today")
    assert (denied.state, denied.votes[0].comment) == (State.DENIED, "not today")
    assert await refusal(lab, parked, lab.approver(), await lab.answer(parked)) == "approval_decided"


@pytest.mark.parametrize("duties", [frozenset[Duty](), frozenset({Duty.VIEWER}), frozenset({Duty.ADMINISTRATOR})])
async def test_who_lacks_the_duty_neither_approves_nor_denies(lab: VotingLab, duties: frozenset[Duty]) -> None:
    parked = await lab.park()
    stranger = lab.approver(duties=duties)
    assert await refusal(lab, parked, stranger, await lab.answer(parked)) == "approver_refused"
    with pytest.raises(GateError, match="approver_refused"):
        await lab.voting.deny(parked.call.id, stranger, "")
    assert len(lab.events(EventKind.APPROVAL_REFUSED)) == 2


async def test_the_user_behind_the_agent_does_not_approve_their_own_call(lab: VotingLab) -> None:
    parked = await lab.park(user=UserId(ISSUER, lab.bob.subject))
    assert await refusal(lab, parked, lab.approver(), await lab.answer(parked)) == "approver_refused"


async def test_neither_do_they_as_whom_their_identity_provider_knows(lab: VotingLab) -> None:
    idp = UserId("https://idp.example", "00u1")
    parked = await lab.park(user=idp)
    known = msgspec.structs.replace(lab.approver(), known_as=frozenset({idp}))
    assert not lab.voting.may_vote(parked, known)
    assert await refusal(lab, parked, known, await lab.answer(parked)) == "approver_refused"
    # The same subject elsewhere is somebody else.
    other = await lab.park(digest="ef" * 32, user=UserId("https://other.example", "00u1"))
    assert lab.voting.may_vote(other, known)


async def test_another_tenants_call_is_not_there(lab: VotingLab) -> None:
    parked = await lab.park()
    stranger, _ = await lab.people.add("eve", "globex", duties=(Duty.APPROVER,))
    assert await refusal(lab, parked, lab.approver(stranger), "{}") == "not_found"
    assert await refusal(lab, msgspec.structs.replace(parked), lab.approver(stranger), "{}") == "not_found"
    with pytest.raises(GateError, match="not_found"):
        await lab.voting.deny("nothing", lab.approver(), "")


async def test_a_disabled_person_decides_nothing(lab: VotingLab) -> None:
    parked = await lab.park()
    gone = lab.approver(msgspec.structs.replace(lab.bob, disabled=True))
    assert await refusal(lab, parked, gone, await lab.answer(parked)) == "approver_refused"


async def test_a_copied_passkey_is_noticed(lab: VotingLab) -> None:
    first, second = await lab.park(), await lab.park("ef" * 32)
    await lab.voting.approve(first.call.id, lab.approver(), await lab.answer(first), "")
    lab.key.count -= 1
    assert await refusal(lab, second, lab.approver(), await lab.answer(second)) == "passkey_refused"


async def test_nobody_approves_more_than_they_can_have_read(lab: VotingLab) -> None:
    lab.key.counts = False
    await lab.keys.remove("acme", lab.bob.subject, (await lab.keys.list("acme", lab.bob.subject))[-1].credential_id)
    await lab.keys.add(_uncounted(lab), 20)
    for number in range(MAX_APPROVALS):
        parked = await lab.park(f"{number:064x}")
        await lab.voting.approve(parked.call.id, lab.approver(), await lab.answer(parked), "")
    parked = await lab.park("aa" * 32)
    assert await refusal(lab, parked, lab.approver(), await lab.answer(parked)) == "approvals_limited"
    (event,) = lab.events(EventKind.APPROVAL_REFUSED)
    assert (event.reason, event.client, event.anomaly) == ("approvals_limited", "acme/bob", True)
    assert (await lab.voting.deny(parked.call.id, lab.approver(), "")).state is State.DENIED
    lab.people.lab.clock.seconds += WINDOW
    parked = await lab.park("bb" * 32)
    assert (
        await lab.voting.approve(parked.call.id, lab.approver(), await lab.answer(parked), "")
    ).state is State.GRANTED


async def test_past_its_deadline_a_call_is_expired_and_stays_so(lab: VotingLab) -> None:
    parked = await lab.park(rule=msgspec.structs.replace(RULE, within=60))
    answer = await lab.answer(parked)
    lab.people.lab.clock.seconds += 60
    assert await refusal(lab, parked, lab.approver(), answer) == "approval_decided"
    current = await lab.parking.current(parked.call.id)
    assert current is not None
    assert current.state is State.EXPIRED
    assert [event.request for event in lab.events(EventKind.APPROVAL_EXPIRED)] == [parked.call.id]


async def test_a_call_waits_no_longer_than_its_session_lives(lab: VotingLab) -> None:
    parked = await lab.park(rule=msgspec.structs.replace(RULE, within=7200))
    assert parked.call.deadline - parked.call.created_at == 3600


async def test_a_call_whose_session_ended_is_cancelled_and_not_run(lab: VotingLab) -> None:
    parked = await lab.park()
    assert await lab.parking.cancel(parked, "its session ended") is True
    assert await lab.parking.cancel(parked, "again") is False
    assert await refusal(lab, parked, lab.approver(), await lab.answer(parked)) == "approval_decided"


async def test_an_answer_is_kept_encrypted_and_not_if_it_is_too_long(lab: VotingLab) -> None:
    parked = await lab.park()
    assert await lab.parking.answer(parked) is None
    granted = await lab.voting.approve(parked.call.id, lab.approver(), await lab.answer(parked), "")
    assert await lab.parking.keep_answer(granted, b"x" * (MAX_RESULT + 1)) is False
    assert await lab.parking.keep_answer(granted, b'{"done":true}') is True
    found = await lab.parking.current(parked.call.id)
    assert found is not None
    assert found.result is not None
    assert b"done" not in found.result
    assert await lab.parking.answer(found) == b'{"done":true}'


def test_duties_come_from_the_person_and_their_groups() -> None:
    bob = User("acme", "s", "bob", groups=("finance", "other"), duties=(Duty.VIEWER,))
    assert duties_of(bob, {"finance": (Duty.APPROVER,), "nobody": (Duty.ADMINISTRATOR,)}) == {
        Duty.VIEWER,
        Duty.APPROVER,
    }


def _uncounted(lab: VotingLab) -> Passkey:
    lab.key = SoftKey(ISSUER, lab.key.rp_id, counts=False)
    numbers = lab.key.key.public_key().public_numbers()
    cose = encode_cbor({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)})
    return Passkey(b64(lab.key.id), "acme", lab.bob.subject, b64(cose), 0, "Key", NOW)
