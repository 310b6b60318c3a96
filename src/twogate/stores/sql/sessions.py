"""Sessions in SQL; implements `flows.sessions.SessionStore` (DESIGN decision 6).

`open` reads and inserts inside one `writing` transaction that excludes others of the same agent and user, so
declarations made at once, by any number of processes, are decided one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Agent, PrincipalKey, UserId
from twogate.core.session import Session, find_or_refuse
from twogate.flows.sessions import nothing
from twogate.stores.sql.engine import exclude, reading, writing
from twogate.stores.sql.revision import bump, changing
from twogate.stores.sql.tables import sessions

KEEP_EXPIRED: Final = 24 * 3600
"""Seconds that a session stays known after its deadline, so that using it is answered with what happened to it."""

PURGE_BATCH: Final = 100
"""Sessions that one opening deletes at most: more than it adds, and few enough to go unnoticed."""


class SqlSessionStore:
    """Keeps sessions. A stored session changes in one way only: it is ended."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open(
        self, candidate: Session, agent: Agent, now: int, announce: Callable[[], Awaitable[None]] = nothing
    ) -> Session:
        """Return the principal's session for the candidate's task, storing the candidate if there is none.

        `announce` is awaited before a stored candidate is committed; if it fails, nothing is stored.

        Raises:
            GateError: what `core.session.find_or_refuse` and `announce` raise; SESSION_CONFLICT if the id is taken;
                CLAIM_INVALID for a user without issuer or subject; STORE_UNAVAILABLE.
            ValueError: the candidate is not a live session of this agent.
        """
        principal = candidate.principal
        if (principal.tenant, principal.agent) != (agent.id.tenant, agent.id.agent):
            raise ValueError("the candidate session belongs to another agent")
        if candidate.ended_at is not None or candidate.deadline <= now:
            raise ValueError("the candidate session is not live")
        columns = _principal_columns(principal)
        conflict = GateError(ErrorCode.SESSION_CONFLICT, f"session {candidate.id} exists already")
        async with writing(self._engine, conflict) as connection:
            # Of every issuer: see `find_or_refuse`.
            whose = {name: value for name, value in columns.items() if name != "issuer"}
            # Rows that do not exist yet cannot be locked, so it is whose they would be that is.
            await exclude(connection, "sessions", *whose.values())
            mine = [sessions.c[name] == value for name, value in whose.items()]
            unexpired = await _fetch(connection, _select(sessions.c.deadline > now, *mine))
            found = find_or_refuse(agent, principal, candidate.task, unexpired)
            if found is not None:
                return found
            await connection.execute(
                insert(sessions).values(
                    id=candidate.id,
                    **columns,
                    task=candidate.task,
                    targets=msgspec.json.encode(sorted(candidate.targets)).decode(),
                    created_at=candidate.created_at,
                    deadline=candidate.deadline,
                    ended_at=None,
                )
            )
            await _purge(connection, now)
            await announce()
        return candidate

    async def get(self, session_id: str) -> Session | None:
        """The session, live or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            found = await _fetch(connection, _select(sessions.c.id == session_id))
        return found[0] if found else None

    async def list_unexpired(self, now: int, tenant: str | None = None) -> Sequence[Session]:
        """Sessions before their deadline, ended ones included, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        conditions = [sessions.c.deadline > now]
        if tenant is not None:
            conditions.append(sessions.c.tenant == tenant)
        async with reading(self._engine) as connection:
            return await _fetch(connection, _select(*conditions))

    async def newest(self, now: int, tenant: str, most: int, skip: int = 0) -> Sequence[Session]:
        """A tenant's live sessions, newest first, without the first `skip`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        wanted = select(sessions).where(*_live(now, tenant))
        async with reading(self._engine) as connection:
            ordered = wanted.order_by(sessions.c.created_at.desc(), sessions.c.id)
            return await _fetch(connection, ordered.limit(most).offset(skip))

    async def count(self, now: int, tenant: str) -> int:
        """How many live sessions a tenant has.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with reading(self._engine) as connection:
            return (await connection.execute(select(func.count()).where(*_live(now, tenant)))).scalar_one()

    async def live(self, now: int, tenant: str, whose: PrincipalKey | UserId, most: int) -> Sequence[Session]:
        """A tenant's live sessions of this very principal, or of this user with whichever agent; newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if isinstance(whose, UserId):
            owned = {"user_issuer": whose.issuer, "user_subject": whose.subject}
        else:
            owned = _principal_columns(whose)
        conditions = [sessions.c[name] == value for name, value in owned.items()]
        wanted = select(sessions).where(*_live(now, tenant), *conditions)
        newest = wanted.order_by(sessions.c.created_at.desc(), sessions.c.id).limit(most)
        async with reading(self._engine) as connection:
            return await _fetch(connection, newest)

    async def end(self, session_id: str, now: int) -> Session | None:
        """End a live session and return it; None if there is none of this id. Ending twice changes nothing.

        On return it is ended everywhere. One that has expired is returned as it is: there is nothing left to end.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        async with changing(self._engine) as connection:
            ended = await connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id, sessions.c.ended_at.is_(None), sessions.c.deadline > now)
                .values(ended_at=now)
                .returning(sessions.c.id)
            )
            if ended.one_or_none() is not None:
                await bump(connection)
            found = await _fetch(connection, _select(sessions.c.id == session_id))
        return found[0] if found else None


def _live(now: int, tenant: str) -> list[ColumnElement[bool]]:
    return [sessions.c.tenant == tenant, sessions.c.deadline > now, sessions.c.ended_at.is_(None)]


def _principal_columns(principal: PrincipalKey) -> dict[str, str]:
    user = principal.user
    if user is not None and not (user.issuer and user.subject):
        # Stored, it would equal "no user".
        raise GateError(ErrorCode.CLAIM_INVALID, "a user has an issuer and a subject")
    return {
        "tenant": principal.tenant,
        "agent": principal.agent,
        "issuer": principal.issuer,
        "user_issuer": "" if user is None else user.issuer,
        "user_subject": "" if user is None else user.subject,
    }


def _select(*conditions: ColumnElement[bool]) -> Select[*tuple[object, ...]]:
    return select(sessions).where(*conditions).order_by(sessions.c.created_at, sessions.c.id)


async def _fetch(connection: AsyncConnection, statement: Select[*tuple[object, ...]]) -> list[Session]:
    return [_session(row) for row in (await connection.execute(statement)).mappings()]


async def _purge(connection: AsyncConnection, now: int) -> None:
    old = select(sessions.c.id).where(sessions.c.deadline <= now - KEEP_EXPIRED).limit(PURGE_BATCH)
    # Another process may be purging too: neither waits for the other's rows.
    old = old.with_for_update(skip_locked=True)
    await connection.execute(delete(sessions).where(sessions.c.id.in_(old)))


def _session(row: RowMapping) -> Session:
    user = UserId(row["user_issuer"], row["user_subject"]) if row["user_issuer"] else None
    return Session(
        id=row["id"],
        principal=PrincipalKey(row["tenant"], row["issuer"], row["agent"], user),
        task=row["task"],
        targets=msgspec.json.decode(row["targets"], type=frozenset[str]),
        created_at=row["created_at"],
        deadline=row["deadline"],
        ended_at=row["ended_at"],
    )
