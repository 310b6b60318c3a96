"""Parked calls in SQL; implements `flows.approvals.parked.ParkedStore`."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Select, case, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.approval import TRANSITIONS, Decision, ParkedCall, Rule, State, Step, Vote, tally
from twogate.core.approval_grounds import Grounds
from twogate.core.errors import ErrorCode, GateError
from twogate.core.operation import State as Ran
from twogate.core.principal import AgentId, UserId
from twogate.flows.approvals.parked import Announce, AnnounceVote, Limit, Parked
from twogate.stores.sql import approval_grounds
from twogate.stores.sql.engine import exclude, insert_if_absent, reading, writing
from twogate.stores.sql.tables_approvals import approval_votes, approvals
from twogate.stores.sql.tables_gates import operations

KEEP: Final = 30 * 24 * 3600
"""Seconds past its deadline that a call is kept for people to look at; the audit trail keeps what was decided."""

PURGE_BATCH: Final = 100
"""Calls that one parking deletes at most."""

_LISTED: Final = tuple(column for column in approvals.c if column.name not in ("params", "result"))


class SqlParkedStore:
    """Keeps parked calls and the votes on them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def park(
        self,
        call: ParkedCall,
        sealed: bytes,
        live: str,
        most: int,
        announce: Announce,
        limit: Limit | None = None,
    ) -> Parked | None:
        """Keep a call, or find the same one; None if too many of its agent wait.

        Raises:
            GateError: RATE_LIMITED by `limit`. STORE_UNAVAILABLE; so everywhere here. What `announce` raises, and
                nothing was kept.
        """
        async with writing(self._engine) as connection:
            # Counting and adding belong together: PostgreSQL's writers run side by side.
            await exclude(connection, "parked", call.tenant, call.agent)
            await _free(connection, live, call.created_at)
            found = await _one(connection, live=live)
            if found is not None:
                return found
            waiting = select(func.count()).where(
                approvals.c.tenant == call.tenant,
                approvals.c.agent == call.agent,
                approvals.c.state == State.PENDING.value,
                approvals.c.deadline > call.created_at,
            )
            if (await connection.execute(waiting)).scalar_one() >= most:
                return None
            if limit is not None:
                asked = select(approvals.c.created_at).where(
                    approvals.c.tenant == call.tenant, approvals.c.agent == call.agent
                )
                again = await _again_at(connection, asked, approvals.c.created_at, limit, call.created_at)
                if again is not None:
                    wait = {"retry_after": again - call.created_at}
                    raise GateError(ErrorCode.RATE_LIMITED, "this agent asked people too often", data=wait)
            await _purge(connection, call.created_at)
            if not await insert_if_absent(connection, approvals, **_row(call, sealed, live)):
                return await _one(connection, live=live)
            await announce()
        return Parked(call, State.PENDING, sealed=sealed)

    async def get(self, approval: str) -> Parked | None:
        """A parked call as of now."""
        async with reading(self._engine) as connection:
            return await _one(connection, approval=approval)

    async def list(self, tenant: str, states: frozenset[State], most: int) -> Sequence[Parked]:
        """A tenant's parked calls in any of these states, newest first, without what is sealed: it may be megabytes."""
        wanted = select(*_LISTED).where(
            approvals.c.tenant == tenant, approvals.c.state.in_(sorted(state.value for state in states))
        )
        async with reading(self._engine) as connection:
            rows = await connection.execute(wanted.order_by(approvals.c.created_at.desc(), approvals.c.id).limit(most))
            return await _with_votes(connection, rows.mappings().all())

    async def count(self, tenant: str, now: int) -> int:
        """How many of a tenant's calls wait for people."""
        waiting = select(func.count()).where(
            approvals.c.tenant == tenant, approvals.c.state == State.PENDING.value, approvals.c.deadline > now
        )
        async with reading(self._engine) as connection:
            return (await connection.execute(waiting)).scalar_one()

    async def mark(self, tenant: str, now: int) -> str:
        """A text that is another one once a tenant's list, or a vote on a waiting call, is another one."""
        waits = (approvals.c.state == State.PENDING.value) & (approvals.c.deadline > now)
        listed = select(
            func.count(), func.max(approvals.c.created_at), func.max(approvals.c.decided_at), func.sum(case((waits, 1)))
        ).where(approvals.c.tenant == tenant)
        joined = approval_votes.join(approvals, approvals.c.id == approval_votes.c.approval)
        voted = select(func.count()).select_from(joined).where(approvals.c.tenant == tenant, waits)
        async with reading(self._engine) as connection:
            counts = (await connection.execute(listed)).one()
            return repr((*counts, (await connection.execute(voted)).scalar_one()))

    async def vote(
        self, approval: str, vote: Vote, assertion: str, announce: AnnounceVote, limit: Limit | None = None
    ) -> Parked | None:
        """Count a vote and decide the call if that does; None if it cannot be counted.

        Raises:
            GateError: APPROVALS_LIMITED by `limit`.
        """
        async with writing(self._engine) as connection:
            if limit is not None:
                # Counting and adding belong together: of one person who approves two calls at once, one is first.
                await exclude(connection, "approver", vote.approver)
            await exclude(connection, "approval", approval)
            parked = await _one(connection, approval=approval)
            if parked is None or parked.state is not State.PENDING or vote.at >= parked.call.deadline:
                return None
            if limit is not None:
                await _require_within(connection, parked.call.tenant, vote, limit)
            if not await insert_if_absent(
                connection,
                approval_votes,
                approval=approval,
                approver=vote.approver,
                decision=vote.decision.value,
                comment=vote.comment,
                assertion=assertion,
                at=vote.at,
            ):
                return None
            votes = (*parked.votes, vote)
            state = tally(parked.call.rule, votes)
            if state is not State.PENDING:
                changed = (
                    update(approvals)
                    .where(approvals.c.id == approval, approvals.c.state == State.PENDING.value)
                    .values(state=state.value, decided_at=vote.at)
                )
                if (await connection.execute(changed.returning(approvals.c.id))).one_or_none() is None:
                    return None
            await announce(state)
        decided_at = None if state is State.PENDING else vote.at
        return msgspec.structs.replace(parked, state=state, votes=votes, decided_at=decided_at)

    async def withdraw(self, approval: str, approver: str, announce: Announce) -> bool:
        """Take an approving vote on a pending call back; False if there is none, or the call is decided."""
        gone = delete(approval_votes).where(
            approval_votes.c.approval == approval,
            approval_votes.c.approver == approver,
            approval_votes.c.decision == Decision.APPROVE.value,
        )
        async with writing(self._engine) as connection:
            await exclude(connection, "approval", approval)
            parked = await _one(connection, approval=approval)
            if parked is None or parked.state is not State.PENDING:
                return False
            if (await connection.execute(gone.returning(approval_votes.c.approver))).one_or_none() is None:
                return False
            await announce()
        return True

    async def grounds(self, approval: str) -> Grounds | None:
        """What a call stands on as of now."""
        async with reading(self._engine) as connection:
            return await approval_grounds.one(connection, approval)

    async def doubtful(self, now: int, most: int, dropped: Collection[AgentId] = ()) -> Sequence[Grounds]:
        """What open calls stand on of which something may have changed, those first of which it surely did."""
        async with reading(self._engine) as connection:
            return await approval_grounds.doubtful(connection, now, most, dropped)

    async def step(self, approval: str, step: Step, now: int, announce: Announce) -> bool:
        """Make a step from any state that it is possible in; never once the call was started.

        What ran, or may have, did not expire and was not cancelled: how it ended is its operation's state.
        """
        ran = exists().where(operations.c.jti == approvals.c.id, operations.c.state != Ran.READY.value)
        origins = {before.value: after.value for (before, of), after in TRANSITIONS.items() if of is step}
        async with writing(self._engine) as connection:
            # PostgreSQL's writers run side by side: a start that is not committed yet would not be seen.
            await exclude(connection, "operation", approval)
            # Nor would a vote: it would be kept with a call that is over, and nobody told. No vote waits for a start.
            await exclude(connection, "approval", approval)
            changed = (
                update(approvals)
                .where(approvals.c.id == approval, approvals.c.state.in_(sorted(origins)), ~ran)
                .values(state=next(iter(origins.values())), decided_at=now)
            )
            if (await connection.execute(changed.returning(approvals.c.id))).one_or_none() is None:
                return False
            await announce()
        return True

    async def waiting(self, most: int) -> Sequence[Parked]:
        """Every tenant's pending calls, oldest first."""
        wanted = select(approvals).where(approvals.c.state == State.PENDING.value)
        async with reading(self._engine) as connection:
            rows = await connection.execute(wanted.order_by(approvals.c.created_at, approvals.c.id).limit(most))
            return await _with_votes(connection, rows.mappings().all())

    async def keep_result(self, approval: str, sealed: bytes) -> bool:
        """Keep how a granted call was answered; False if that was kept before, or the call was not granted."""
        kept = (
            update(approvals)
            .where(approvals.c.id == approval, approvals.c.state == State.GRANTED.value, approvals.c.result.is_(None))
            .values(result=base64.urlsafe_b64encode(sealed).decode())
        )
        async with writing(self._engine) as connection:
            return (await connection.execute(kept.returning(approvals.c.id))).one_or_none() is not None

    async def note(self, approval: str, *, reminded_at: int | None = None, escalated_at: int | None = None) -> bool:
        """Note that people were told again; False if that was noted before."""
        column, value = (
            (approvals.c.escalated_at, escalated_at) if reminded_at is None else (approvals.c.reminded_at, reminded_at)
        )
        async with writing(self._engine) as connection:
            noted = update(approvals).where(approvals.c.id == approval, column.is_(None)).values({column: value})
            return (await connection.execute(noted.returning(approvals.c.id))).one_or_none() is not None


def _row(call: ParkedCall, sealed: bytes, live: str) -> dict[str, object]:
    return {
        "id": call.id,
        "tenant": call.tenant,
        "issuer": call.issuer,
        "agent": call.agent,
        "user_issuer": "" if call.user is None else call.user.issuer,
        "user_subject": "" if call.user is None else call.user.subject,
        "session": call.session,
        "task": call.task,
        "server": call.server,
        "tool": call.tool,
        "pin": call.pin,
        "digest": call.digest,
        "nonce": call.nonce,
        "rule": msgspec.json.encode(call.rule, order="deterministic").decode(),
        "params": base64.urlsafe_b64encode(sealed).decode(),
        "live": live,
        "state": State.PENDING.value,
        "created_at": call.created_at,
        "deadline": call.deadline,
    }


def _parked(row: RowMapping, votes: tuple[Vote, ...]) -> Parked:
    user = UserId(row["user_issuer"], row["user_subject"]) if row["user_issuer"] else None
    call = ParkedCall(
        id=row["id"],
        nonce=row["nonce"],
        tenant=row["tenant"],
        issuer=row["issuer"],
        agent=row["agent"],
        user=user,
        session=row["session"],
        task=row["task"],
        server=row["server"],
        tool=row["tool"],
        pin=row["pin"],
        digest=row["digest"],
        created_at=row["created_at"],
        deadline=row["deadline"],
        rule=msgspec.json.decode(row["rule"], type=Rule),
    )
    return Parked(
        call=call,
        state=State(row["state"]),
        votes=votes,
        sealed=base64.urlsafe_b64decode(row.get("params") or ""),
        result=None if row.get("result") is None else base64.urlsafe_b64decode(row["result"]),
        decided_at=row["decided_at"],
        reminded_at=row["reminded_at"],
        escalated_at=row["escalated_at"],
    )


async def _one(connection: AsyncConnection, *, approval: str = "", live: str = "") -> Parked | None:
    wanted = select(approvals).where(approvals.c.id == approval if approval else approvals.c.live == live)
    rows = (await connection.execute(wanted)).mappings().all()
    found = await _with_votes(connection, rows)
    return found[0] if found else None


async def _with_votes(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[Parked]:
    ids = [row["id"] for row in rows]
    said: dict[str, list[Vote]] = {approval: [] for approval in ids}
    votes = select(approval_votes).where(approval_votes.c.approval.in_(ids))
    for row in (await connection.execute(votes.order_by(approval_votes.c.at, approval_votes.c.approver))).mappings():
        said[row["approval"]].append(Vote(row["approver"], Decision(row["decision"]), row["at"], row["comment"]))
    return [_parked(row, tuple(said[row["id"]])) for row in rows]


async def _require_within(connection: AsyncConnection, tenant: str, vote: Vote, limit: Limit) -> None:
    joined = approval_votes.join(approvals, approvals.c.id == approval_votes.c.approval)
    approved = (
        select(approval_votes.c.at)
        .select_from(joined)
        .where(
            approvals.c.tenant == tenant,
            approval_votes.c.approver == vote.approver,
            approval_votes.c.decision == Decision.APPROVE.value,
        )
    )
    again = await _again_at(connection, approved, approval_votes.c.at, limit, vote.at)
    if again is not None:
        raise GateError(
            ErrorCode.APPROVALS_LIMITED,
            f"approved {limit.most} calls within {limit.within} seconds",
            data={"most": limit.most, "within": limit.within, "again_at": again},
        )


async def _again_at(
    connection: AsyncConnection, times: Select[int], column: ColumnElement[int], limit: Limit, now: int
) -> int | None:
    """When one more is possible; None if it is now. So many of the newest stand in the way as there may be."""
    newest = times.where(column > now - limit.within).order_by(column.desc()).offset(limit.most - 1).limit(1)
    found = (await connection.execute(newest)).scalar_one_or_none()
    return None if found is None else found + limit.within


async def _free(connection: AsyncConnection, live: str, now: int) -> None:
    """Past its deadline a call is another one, though it be the same."""
    await connection.execute(
        update(approvals).where(approvals.c.live == live, approvals.c.deadline <= now).values(live=None)
    )


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(approvals.c.id).where(approvals.c.deadline <= now - KEEP).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    ids = (await connection.execute(old.with_for_update(skip_locked=True))).scalars().all()
    await connection.execute(delete(approval_votes).where(approval_votes.c.approval.in_(ids)))
    await connection.execute(delete(approvals).where(approvals.c.id.in_(ids)))
