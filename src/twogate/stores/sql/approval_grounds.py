"""What parked calls stand on, read in SQL for `stores.sql.approvals.SqlParkedStore`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import ColumnElement, and_, case, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from twogate.core.approval import Decision, Duty, Rule, State
from twogate.core.approval_grounds import Grounds, Voter
from twogate.core.operation import State as Ran
from twogate.core.principal import AgentId
from twogate.stores.sql.tables import disabled_agents, sessions, users
from twogate.stores.sql.tables_approvals import approval_votes, approvals
from twogate.stores.sql.tables_gates import operations

_RAN = exists().where(operations.c.jti == approvals.c.id, operations.c.state != Ran.READY.value)
_SESSION_ENDED = exists().where(sessions.c.id == approvals.c.session, sessions.c.ended_at.is_not(None))
_AGENT_DISABLED = exists().where(
    disabled_agents.c.tenant == approvals.c.tenant, disabled_agents.c.agent == approvals.c.agent
)
# People's subjects here are random and never given twice, so one of another issuer is nobody's here.
_USER_DISABLED = exists().where(
    users.c.tenant == approvals.c.tenant,
    users.c.subject == approvals.c.user_subject,
    users.c.disabled_at.is_not(None),
)
_APPROVED = and_(approval_votes.c.approval == approvals.c.id, approval_votes.c.decision == Decision.APPROVE.value)
_OPEN = approvals.c.state.in_([State.PENDING.value, State.GRANTED.value])


async def one(connection: AsyncConnection, approval: str) -> Grounds | None:
    """What a call stands on, whatever became of it; None if it is not there."""
    found = await _read(connection, approvals.c.id == approval, 1)
    return found[0] if found else None


async def doubtful(connection: AsyncConnection, now: int, most: int, dropped: Collection[AgentId]) -> Sequence[Grounds]:
    """Of calls that wait, or may run and did not: those about which something may have changed. See `ParkedStore`."""
    agents = [and_(approvals.c.tenant == agent.tenant, approvals.c.agent == agent.agent) for agent in dropped]
    over = or_(approvals.c.deadline <= now, _SESSION_ENDED, _AGENT_DISABLED, _USER_DISABLED, *agents)
    return await _read(
        connection, and_(_OPEN, ~_RAN, or_(over, exists().where(_APPROVED))), most, case((over, 0), else_=1)
    )


async def _read(
    connection: AsyncConnection, condition: ColumnElement[bool], most: int, first: ColumnElement[int] | None = None
) -> list[Grounds]:
    wanted = select(
        approvals.c.id,
        approvals.c.tenant,
        approvals.c.agent,
        approvals.c.state,
        approvals.c.rule,
        approvals.c.created_at,
        approvals.c.deadline,
        _RAN.label("ran"),
        _SESSION_ENDED.label("session_ended"),
        _AGENT_DISABLED.label("agent_disabled"),
        _USER_DISABLED.label("user_disabled"),
    ).where(condition)
    order = (approvals.c.deadline, approvals.c.id)
    ordered = wanted.order_by(*order) if first is None else wanted.order_by(first, *order)
    rows = (await connection.execute(ordered.limit(most))).all()
    if not rows:
        return []
    voters = await _voters(connection, [row.id for row in rows])
    return [
        Grounds(
            approval=row.id,
            tenant=row.tenant,
            agent=row.agent,
            state=State(row.state),
            rule=msgspec.json.decode(row.rule, type=Rule),
            created_at=row.created_at,
            deadline=row.deadline,
            ran=bool(row.ran),
            session_ended=bool(row.session_ended),
            agent_disabled=bool(row.agent_disabled),
            user_disabled=bool(row.user_disabled),
            voters=tuple(voters.get(row.id, ())),
        )
        for row in rows
    ]


async def _voters(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, list[Voter]]:
    people = and_(users.c.tenant == approvals.c.tenant, users.c.subject == approval_votes.c.approver)
    joined = approval_votes.join(approvals, _APPROVED).outerjoin(users, people)
    wanted = (
        select(
            approval_votes.c.approval,
            approval_votes.c.approver,
            users.c.name,
            users.c.disabled_at,
            users.c.duties,
            users.c.groups,
        )
        .select_from(joined)
        .where(approval_votes.c.approval.in_(ids))
        .order_by(approval_votes.c.at, approval_votes.c.approver)
    )
    found: dict[str, list[Voter]] = {}
    for row in await connection.execute(wanted):
        voter = Voter(row.approver)
        if row.name is not None:
            duties = msgspec.json.decode(row.duties, type=tuple[Duty, ...])
            groups = msgspec.json.decode(row.groups, type=tuple[str, ...])
            voter = Voter(row.approver, row.name, row.disabled_at is None, duties, groups)
        found.setdefault(row.approval, []).append(voter)
    return found
