"""The uses of operation tokens in SQL; implements `flows.operations.store.OperationStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.operation import TRANSITIONS, State, Step
from twogate.flows.operations.store import STALE, Announce, Lost, Operation
from twogate.stores.sql.engine import exclude, insert_if_absent, is_postgresql, reading, writing
from twogate.stores.sql.tables import leases
from twogate.stores.sql.tables_approvals import approvals
from twogate.stores.sql.tables_gates import operations

KEEP: Final = 24 * 3600
"""Seconds past a token's end that its use is kept, so that a late retry is told what became of it.

An approval's is kept as long as its parked call.
"""

PURGE_EVERY: Final = 64
"""Starts between two purges."""

PURGE_BATCH: Final = 256
"""Rows that one purge deletes at most: more than were added since the last, few enough to go unnoticed."""

_NEVER: Final = -1


class SqlOperationStore:
    """Keeps the state of each token; one statement decides who starts it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._starts = 0

    async def deposit(self, operation: Operation) -> bool:
        """Keep a token as READY; False if it is there already.

        Raises:
            GateError: STORE_UNAVAILABLE; so everywhere here.
        """
        async with writing(self._engine) as connection:
            return await insert_if_absent(connection, operations, **_row(operation, State.READY))

    async def start(self, operation: Operation, event: str, owner: str, now: int) -> State | None:
        """Begin the token's one use; None for exactly one caller."""
        started = {"event": event, "owner": owner, "started_at": now}
        async with writing(self._engine) as connection:
            # An approval that is about to be cancelled must be seen as cancelled right after this, or see this.
            await exclude(connection, "operation", operation.jti)
            self._starts += 1
            if self._starts % PURGE_EVERY == 0:
                await _purge(connection, now)
            # Whoever inserts the row, or moves it from READY, has started it.
            if await insert_if_absent(connection, operations, **{**_row(operation, State.STARTED), **started}):
                return None
            same = and_(operations.c.tenant == operation.tenant, operations.c.digest == operation.digest)
            if await _step(connection, Step.START, operation.jti, same, **started):
                return None
            # Not READY any more, or deposited for another call: that one is not this caller's to start.
            return await _current(connection, operation.jti, now)

    async def undo(self, jti: str, event: str) -> bool:
        """Take back a start."""
        async with writing(self._engine) as connection:
            return await _step(connection, Step.UNDO, jti, operations.c.event == event, event=None, started_at=None)

    async def finish(self, jti: str, event: str, outcome: str, now: int) -> bool:
        """Note how the call of a start ended."""
        async with writing(self._engine) as connection:
            mine = operations.c.event == event
            return await _step(connection, Step.FINISH, jti, mine, outcome=outcome, finished_at=now)

    async def state(self, jti: str, now: int) -> State | None:
        """Where a token stands."""
        async with reading(self._engine) as connection:
            found = (await connection.execute(_select(jti))).one_or_none()
        if found is None:
            return None
        return State.OUTCOME_UNKNOWN if _stale(found.state, found.started_at, now) else State(found.state)

    async def started_elsewhere(self, owner: str) -> bool:
        """Whether a call is under way that another process than `owner` started, or one was left so."""
        elsewhere = and_(operations.c.state == State.STARTED.value, operations.c.owner != owner)
        async with reading(self._engine) as connection:
            return bool(await connection.scalar(select(exists().where(elsewhere))))

    async def give_up(self, owner: str, now: int, announce: Announce) -> Sequence[Lost]:
        """Give up what processes that are gone had started."""
        columns = operations.c
        async with writing(self._engine) as connection:
            gone: ColumnElement[bool] = columns.owner != owner
            if is_postgresql(connection):
                leased = select(leases.c.replica)
                gone = and_(gone, or_(columns.owner.not_in(leased), columns.started_at <= now - STALE))
            given_up = (
                update(operations)
                .where(columns.state == State.STARTED.value, gone)
                .values(state=TRANSITIONS[State.STARTED, Step.LOSE].value)
                .returning(columns.jti, columns.tenant, columns.digest, columns.event, columns.started_at)
            )
            rows = (await connection.execute(given_up)).all()
            lost = [Lost(row.jti, row.tenant, row.digest, row.event or "", row.started_at or 0) for row in rows]
            if lost:
                await announce(lost)
        return lost


def _row(operation: Operation, state: State) -> dict[str, object]:
    return {
        "jti": operation.jti,
        "tenant": operation.tenant,
        "digest": operation.digest,
        "expires_at": operation.expires_at,
        "state": state.value,
        "owner": "",
    }


async def _step(
    connection: AsyncConnection, step: Step, jti: str, condition: ColumnElement[bool], **values: object
) -> bool:
    """Make a step if the table of transitions has it from where the token stands; of several at once one makes it."""
    for (before, known), after in TRANSITIONS.items():
        if known is not step:
            continue
        moved = (
            update(operations)
            .where(operations.c.jti == jti, operations.c.state == before.value, condition)
            .values(state=after.value, **values)
            .returning(operations.c.jti)
        )
        if (await connection.execute(moved)).one_or_none() is not None:
            return True
    return False


async def _current(connection: AsyncConnection, jti: str, now: int) -> State:
    found = (await connection.execute(_select(jti))).one_or_none()
    if found is None:
        # Purged between two statements: long over, whatever it was.
        return State.FINISHED
    if not _stale(found.state, found.started_at, now):
        return State(found.state)
    late = operations.c.started_at <= now - STALE
    await _step(connection, Step.LOSE, jti, late)
    return State.OUTCOME_UNKNOWN


def _select(jti: str) -> Select[*tuple[object, ...]]:
    return select(operations.c.state, operations.c.started_at).where(operations.c.jti == jti)


def _stale(state: str, started_at: int | None, now: int) -> bool:
    return state == State.STARTED.value and (_NEVER if started_at is None else started_at) <= now - STALE


async def _purge(connection: AsyncConnection, now: int) -> None:
    # Of an approved call it tells whether it ran, for as long as anybody can ask.
    approved = exists().where(approvals.c.id == operations.c.jti)
    old = select(operations.c.jti).where(operations.c.expires_at <= now - KEEP, ~approved).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(operations).where(operations.c.jti.in_(old)))
