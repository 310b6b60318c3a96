"""Messages about calls that wait, in SQL; implements `flows.approvals.notices.NoticeStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.approval import Rule, State
from twogate.core.notices import MINUTE, PER_MINUTE, TOLD_LATE, Kind, OpenCall
from twogate.flows.approvals.notices import Claimed, Ended, Planned
from twogate.flows.approvals.parked import Announce
from twogate.stores.sql.engine import exclude, insert_if_absent, reading, writing
from twogate.stores.sql.tables_approvals import approvals, notices

KEEP: Final = 31 * 24 * 3600
"""Seconds that a message is kept: longer than the call that it is about."""

MOST_REST: Final = 500
"""Messages that one stands for at most."""

_DUE: Final = "due"
_SUMMED: Final = "summed"

_COLUMNS: Final = (
    approvals.c.id,
    approvals.c.tenant,
    approvals.c.state,
    approvals.c.created_at,
    approvals.c.deadline,
    approvals.c.rule,
    approvals.c.decided_at,
    approvals.c.reminded_at,
    approvals.c.escalated_at,
)


class SqlNoticeStore:
    """Keeps messages."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open_calls(self, now: int, most: int) -> Sequence[OpenCall]:
        """Pending calls, oldest first, and those decided lately.

        Raises:
            GateError: STORE_UNAVAILABLE; so everywhere here.
        """
        pending = select(*_COLUMNS).where(approvals.c.state == State.PENDING.value)
        since = now - TOLD_LATE
        decided = select(*_COLUMNS).where(
            approvals.c.deadline > since, approvals.c.state != State.PENDING.value, approvals.c.decided_at > since
        )
        async with reading(self._engine) as connection:
            rows: list[RowMapping] = []
            for wanted in (pending, decided):
                ordered = wanted.order_by(approvals.c.created_at, approvals.c.id).limit(most)
                rows += (await connection.execute(ordered)).mappings().all()
            told: dict[str, set[tuple[Kind, str]]] = {row["id"]: set() for row in rows}
            made = select(notices.c.approval, notices.c.kind, notices.c.channel).where(notices.c.approval.in_(told))
            for approval, kind, channel in await connection.execute(made):
                told[approval].add((Kind(kind), channel))
        return [_open(row, frozenset(told[row["id"]])) for row in rows]

    async def plan(self, planned: Sequence[Planned], now: int) -> None:
        """Make messages that were not made."""
        async with writing(self._engine) as connection:
            await connection.execute(delete(notices).where(notices.c.created_at <= now - KEEP))
            for one in planned:
                await insert_if_absent(
                    connection,
                    notices,
                    approval=one.approval,
                    kind=one.kind.value,
                    channel=one.channel,
                    tenant=one.tenant,
                    state=_DUE,
                    attempts=0,
                    created_at=now,
                    next_at=now,
                )

    async def claim(self, channel: str, now: int, until: int) -> Claimed | None:
        """Take the next message that is due for a channel, of a tenant that may have one."""
        waiting = and_(notices.c.channel == channel, notices.c.state == _DUE, notices.c.next_at <= now)
        # Most rounds find nothing, and need no writer's turn for that.
        async with reading(self._engine) as connection:
            if (await connection.execute(select(notices.c.kind).where(waiting).limit(1))).first() is None:
                return None
        async with writing(self._engine) as connection:
            # Counting and taking belong together: PostgreSQL's writers run side by side.
            await exclude(connection, "notices", channel)
            lately = (
                select(notices.c.tenant, func.count())
                .where(notices.c.channel == channel, notices.c.last_at > now - MINUTE)
                .group_by(notices.c.tenant)
            )
            counts = {row[0]: int(row[1]) for row in await connection.execute(lately)}
            full = [tenant for tenant, count in counts.items() if count >= PER_MINUTE]
            wanted = (
                select(notices)
                .where(waiting, notices.c.tenant.not_in(full))
                .order_by(notices.c.next_at, notices.c.created_at, notices.c.approval, notices.c.kind)
                .limit(1)
            )
            row = (await connection.execute(wanted)).mappings().one_or_none()
            if row is None:
                return None
            attempts = row["attempts"] + 1
            await connection.execute(
                update(notices)
                .where(notices.c.approval == row["approval"], notices.c.kind == row["kind"])
                .where(notices.c.channel == channel)
                .values(attempts=attempts, next_at=until, last_at=now)
            )
            last = counts.get(row["tenant"], 0) + 1 >= PER_MINUTE
            rest = await _rest(connection, and_(waiting, notices.c.tenant == row["tenant"]), now) if last else ()
        return Claimed(row["approval"], Kind(row["kind"]), channel, attempts, rest)

    async def retry(self, claimed: Claimed, at: int) -> None:
        """Try it again at this time."""
        async with writing(self._engine) as connection:
            await connection.execute(update(notices).where(_mine(claimed)).values(next_at=at))

    async def end(self, claimed: Claimed, ended: Ended, now: int, announce: Announce) -> bool:
        """Note what became of it, unless another process did or took it over."""
        noted = update(notices).where(_mine(claimed)).values(state=ended.value, ended_at=now)
        async with writing(self._engine) as connection:
            if (await connection.execute(noted.returning(notices.c.kind))).one_or_none() is None:
                return False
            if ended is Ended.SENT and claimed.rest:
                pairs = [(approval, kind.value) for approval, kind in claimed.rest]
                await connection.execute(
                    update(notices)
                    .where(notices.c.channel == claimed.channel, notices.c.state == _DUE)
                    .where(tuple_(notices.c.approval, notices.c.kind).in_(pairs))
                    .values(state=_SUMMED, ended_at=now)
                )
            await announce()
        return True


def _mine(claimed: Claimed) -> ColumnElement[bool]:
    return and_(
        notices.c.approval == claimed.approval,
        notices.c.kind == claimed.kind.value,
        notices.c.channel == claimed.channel,
        notices.c.state == _DUE,
        notices.c.attempts == claimed.attempts,
    )


async def _rest(connection: AsyncConnection, waiting: ColumnElement[bool], now: int) -> tuple[tuple[str, Kind], ...]:
    """What else is due and has still something to say; the one that was taken is not due any more."""
    speaks = or_(
        notices.c.kind == Kind.DECIDED.value,
        and_(approvals.c.state == State.PENDING.value, approvals.c.deadline > now),
    )
    wanted = (
        select(notices.c.approval, notices.c.kind)
        .select_from(notices.join(approvals, approvals.c.id == notices.c.approval))
        .where(waiting, speaks)
        .limit(MOST_REST)
    )
    return tuple((approval, Kind(kind)) for approval, kind in await connection.execute(wanted))


def _open(row: RowMapping, told: frozenset[tuple[Kind, str]]) -> OpenCall:
    return OpenCall(
        approval=row["id"],
        tenant=row["tenant"],
        state=State(row["state"]),
        created_at=row["created_at"],
        deadline=row["deadline"],
        rule=msgspec.json.decode(row["rule"], type=Rule),
        decided_at=row["decided_at"],
        reminded_at=row["reminded_at"],
        escalated_at=row["escalated_at"],
        told=told,
    )
