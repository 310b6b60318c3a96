"""Opening, finding and ending sessions through the cache, and what of it is written down."""

from __future__ import annotations

import msgspec
import pytest

from gatelab import AGENT, NOW, POLICY, PRINCIPAL, CountingRng, FakeClock, MemorySessions, RecordingAudit, with_user
from twogate.core.access import Policy
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import AgentId, Principal
from twogate.core.session import MAX_LIFETIME
from twogate.flows import sessions as module
from twogate.flows.sessions import Sessions

OTHER = msgspec.structs.replace(PRINCIPAL, agent=msgspec.structs.replace(AGENT, id=AgentId("acme", "other")))


class Lab:
    def __init__(self) -> None:
        self.store = MemorySessions()
        self.audit = RecordingAudit()
        self.policy: Policy = POLICY
        self.sessions = Sessions(self.store, self.store, lambda: self.policy, self.audit, FakeClock(), CountingRng())

    async def declare_code(self, task: str, principal: Principal = PRINCIPAL, now: int = NOW) -> ErrorCode:
        with pytest.raises(GateError) as refusal:
            await self.sessions.declare(task, principal, now, "192.0.2.1")
        return refusal.value.code

    async def find_code(self, session_id: str, principal: Principal = PRINCIPAL, now: int = NOW) -> ErrorCode:
        with pytest.raises(GateError) as refusal:
            await self.sessions.find(session_id, principal, now)
        return refusal.value.code


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_declared_task_opens_a_session_of_what_role_and_task_share(lab: Lab) -> None:
    session = await lab.sessions.declare("edit", PRINCIPAL, NOW, "192.0.2.1")
    assert session.targets == {"files.look", "files.find", "files.change"}
    assert (session.created_at, session.deadline) == (NOW, NOW + MAX_LIFETIME)
    assert session.principal == PRINCIPAL.key
    assert await lab.sessions.find(session.id, PRINCIPAL, NOW) == session


async def test_opening_is_written_down_once_and_finding_it_again_is_not(lab: Lab) -> None:
    session = await lab.sessions.declare("report", with_user(), NOW, "192.0.2.1")
    await lab.sessions.declare("report", with_user(), NOW + 1, "192.0.2.1")
    (event,) = lab.audit.events
    assert event.kind is EventKind.SESSION_OPENED
    assert (event.session, event.task, event.agent, event.user) == (session.id, "report", "robot", "alice")
    assert (event.address, event.anomaly, event.reason) == ("192.0.2.1", False, "")


@pytest.mark.parametrize(
    ("task", "code"), [("ghost", ErrorCode.TASK_UNKNOWN), ("edit", ErrorCode.TASK_LIMIT)], ids=["unknown", "another"]
)
async def test_declaring_what_may_not_be_is_refused_and_written_down_as_an_anomaly(
    lab: Lab, task: str, code: ErrorCode
) -> None:
    await lab.sessions.declare("report", PRINCIPAL, NOW)
    assert await lab.declare_code(task) is code
    event = lab.audit.events[-1]
    assert (event.kind, event.task, event.reason, event.anomaly) == (EventKind.SESSION_REFUSED, task, code, True)


async def test_an_ended_task_stays_refused_until_its_deadline_and_is_no_anomaly(lab: Lab) -> None:
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    await lab.store.end(session.id, NOW + 1)
    assert await lab.find_code(session.id, now=NOW + 1) is ErrorCode.SESSION_ENDED
    assert await lab.declare_code("report", now=NOW + MAX_LIFETIME - 1) is ErrorCode.SESSION_ENDED
    assert not lab.audit.events[-1].anomaly
    again = await lab.sessions.declare("report", PRINCIPAL, NOW + MAX_LIFETIME)
    assert again.id != session.id


async def test_the_same_task_gives_the_same_session_from_the_cache_and_without_it(lab: Lab) -> None:
    first = await lab.sessions.declare("report", PRINCIPAL, NOW)
    again = Sessions(lab.store, lab.store, lambda: POLICY, lab.audit, FakeClock(), CountingRng(1000))
    assert await lab.sessions.declare("report", PRINCIPAL, NOW + 100) == first
    assert await again.declare("report", PRINCIPAL, NOW + 100) == first


async def test_a_session_keeps_its_tools_when_the_configuration_grows(lab: Lab) -> None:
    before = await lab.sessions.declare("report", PRINCIPAL, NOW)
    lab.policy = msgspec.structs.replace(POLICY, tasks={"report": frozenset({"read", "search", "write"})})
    lab.store.revision += 1
    assert (await lab.sessions.declare("report", PRINCIPAL, NOW + 1)).targets == before.targets


async def test_an_unknown_id_is_unknown_and_a_foreign_one_mismatched(lab: Lab) -> None:
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    assert await lab.find_code("nothing") is ErrorCode.SESSION_UNKNOWN
    assert await lab.find_code(session.id, OTHER) is ErrorCode.SESSION_MISMATCH
    assert await lab.find_code(session.id, with_user()) is ErrorCode.SESSION_MISMATCH
    assert await lab.sessions.find(session.id, PRINCIPAL, NOW) == session
    assert await lab.find_code(session.id, OTHER) is ErrorCode.SESSION_MISMATCH


async def test_a_found_session_is_read_from_the_store_once_a_revision(lab: Lab) -> None:
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    for _ in range(5):
        await lab.sessions.find(session.id, PRINCIPAL, NOW)
    assert lab.store.reads == 1
    lab.store.revision += 1
    await lab.sessions.find(session.id, PRINCIPAL, NOW)
    assert lab.store.reads == 2


async def test_a_cached_session_is_refused_from_its_deadline_on(lab: Lab) -> None:
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    await lab.sessions.find(session.id, PRINCIPAL, session.deadline - 1)
    assert await lab.find_code(session.id, now=session.deadline) is ErrorCode.SESSION_EXPIRED


async def test_a_session_ended_elsewhere_is_refused_at_the_next_look(lab: Lab) -> None:
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    await lab.sessions.find(session.id, PRINCIPAL, NOW)
    await lab.store.end(session.id, NOW)
    assert await lab.find_code(session.id) is ErrorCode.SESSION_ENDED


async def test_a_revision_that_only_the_store_can_tell_is_asked_for_each_time(lab: Lab) -> None:
    lab.store.knows = False
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    for _ in range(3):
        assert await lab.sessions.declare("report", PRINCIPAL, NOW) == session
        await lab.sessions.find(session.id, PRINCIPAL, NOW)
    assert lab.store.reads == 1
    await lab.store.end(session.id, NOW)
    assert await lab.find_code(session.id) is ErrorCode.SESSION_ENDED
    assert await lab.declare_code("report") is ErrorCode.SESSION_ENDED


async def test_a_session_ended_while_it_was_being_read_is_not_remembered_as_live(lab: Lab) -> None:
    session = await lab.sessions.declare("report", PRINCIPAL, NOW)
    elsewhere = await lab.sessions.declare("report", OTHER, NOW)

    def end_meanwhile() -> None:
        lab.store.before_read_returns = lambda: None
        lab.store.rows[session.id] = msgspec.structs.replace(session, ended_at=NOW)
        lab.store.revision += 1
        # Another call of this process notices the new revision first.
        lab.sessions._forget_if_changed(lab.store.revision)

    assert elsewhere.id != session.id
    lab.store.before_read_returns = end_meanwhile
    # This read began before the end, so it may still succeed; the next may not.
    assert await lab.sessions.find(session.id, PRINCIPAL, NOW) == session
    assert await lab.find_code(session.id) is ErrorCode.SESSION_ENDED


async def test_a_session_ended_while_it_was_being_declared_is_not_remembered_as_live(lab: Lab) -> None:
    def end_meanwhile() -> None:
        lab.store.before_read_returns = lambda: None
        (row,) = lab.store.rows.values()
        lab.store.rows[row.id] = msgspec.structs.replace(row, ended_at=NOW)
        lab.store.revision += 1
        lab.sessions._forget_if_changed(lab.store.revision)

    lab.store.before_read_returns = end_meanwhile
    await lab.sessions.declare("report", PRINCIPAL, NOW)
    assert await lab.declare_code("report") is ErrorCode.SESSION_ENDED


async def test_no_session_is_given_out_that_cannot_be_written_down(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.SESSION_OPENED})
    assert await lab.declare_code("report") is ErrorCode.AUDIT_UNAVAILABLE


async def test_a_refusal_that_cannot_be_written_down_says_so(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.SESSION_REFUSED})
    assert await lab.declare_code("ghost") is ErrorCode.AUDIT_UNAVAILABLE


async def test_the_cache_keeps_no_more_than_its_bound(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_ENTRIES", 2)
    principals = [
        msgspec.structs.replace(PRINCIPAL, issuer=f"https://issuer{number}.example.com") for number in range(3)
    ]
    opened = [await lab.sessions.declare("report", principal, NOW) for principal in principals]
    for _ in range(2):
        for session, principal in zip(opened, principals, strict=True):
            await lab.sessions.find(session.id, principal, NOW)
    assert lab.store.reads == 6
    await lab.sessions.find(opened[2].id, principals[2], NOW)
    assert lab.store.reads == 6
