"""Long-lived streams on which a client hears that people decided its calls.

Two of them. A client of MCP 2025-11-25 that was told where people decide its call hears on its own GET stream that
they did (`notifications/elicitation/complete`). A client of MCP 2026-07-28 that listens to its task hears how it stands
(`notifications/tasks`), and since it need not ask any more, its stream is what an approved call runs within.

What Twogate says comes between what the server says; where a client listens to tasks of Twogate's alone, no server is
asked. Whoever may not listen any more hears nothing, as on every stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, NamedTuple

from twogate.core.approval import State
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.approvals.parked import Parked, Parking
from twogate.flows.gateway import approval_forms as forms
from twogate.flows.gateway.admit import Admitted, Refused
from twogate.flows.gateway.approval_elicited import Elicited, client_of
from twogate.flows.gateway.approval_exchange import SharedStream
from twogate.flows.gateway.approval_tell import Teller
from twogate.flows.gateway.approval_wait import UNDECIDED, Pace, Waits
from twogate.flows.gateway.exchange import Exchange
from twogate.flows.gateway.operation import brings_token
from twogate.flows.gateway.parked_run import Kept, Standing
from twogate.flows.gateway.read import STREAM, AwaitedTasks, Call
from twogate.flows.gateway.streams import KEEP_ALIVE_TICKS, paced

MAX_AWAITED: Final = 64
"""Tasks of Twogate's that one request may listen to; each is looked for in the store."""

# Where a task may still become something else.
_OPEN: Final = UNDECIDED | {Standing.READY}
_GONE: Final = frozenset({ErrorCode.MCP_TASK_UNKNOWN, ErrorCode.APPROVAL_EXPIRED})


class Line(NamedTuple):
    """The rest of the pipeline, for one caller: decide a call again in full, run an admitted one, refuse one."""

    again: Callable[[Call], Awaitable[Admitted | Refused]]
    run: Callable[[Admitted, Exchange], Awaitable[None]]
    refuse: Callable[[Refused, Exchange], Awaitable[None]]


class Stood(NamedTuple):
    """How a task stands; `kept` is the answer of its run. If it is READY all the same, nothing was sent."""

    parked: Parked
    standing: Standing
    kept: Kept | None


Ask = Callable[[Call, str, str, Line], Awaitable[Refused | Stood]]
"""How the task of a parked call (by its id, in a session) stands; run within this, if it may run now."""


class Listening:
    """Serves the streams. Each of `closing` ends them."""

    def __init__(
        self,
        parking: Parking,
        waits: Waits,
        teller: Teller,
        elicited: Elicited,
        closing: tuple[asyncio.Event, ...],
        pace: Pace,
    ) -> None:
        self._parking = parking
        self._waits = waits
        self._teller = teller
        self._elicited = elicited
        self._closing = closing
        self._pace = pace

    def hears(self, call: Call) -> bool:
        """Whether a call opens the stream on which its client hears of what it was told to have decided."""
        # The rest of a stream that broke off belongs to one call, and may be passed on in pieces.
        begins = call.message.method == STREAM and call.resumed is None
        return begins and client_of(call) is not None and not brings_token(call)

    async def take(self, admitted: Admitted, line: Line, outer: Exchange, ask: Ask) -> None:
        """Serve a stream, and answer it, whatever the outcome."""
        call, shared = admitted.call, SharedStream(outer)
        awaited = call.approval
        if not isinstance(awaited, AwaitedTasks):
            await _beside(line.run(admitted, shared), shared, [self._tell_decided(admitted, line, shared)])
            return
        try:
            session = await self._check(admitted, awaited)
        except GateError as error:
            refused = Refused(call, admitted.session, admitted.target, error, observing=admitted.observing)
            await line.refuse(refused, outer)
            return
        # What is left for the server; a subscription that is false is none.
        others = any(call.message.params["notifications"].values())
        served = line.run(admitted, shared) if others else self._serve(admitted, awaited, line, shared)
        followed = [
            self._follow(admitted, _Followed(sealed, task.approval, session), line, shared, ask)
            for sealed, task in awaited.tasks.items()
        ]
        await _beside(served, shared, followed)

    async def _check(self, admitted: Admitted, awaited: AwaitedTasks) -> str:
        """The session to which all the tasks belong."""
        call, session = admitted.call, admitted.session
        require_tasks(call)
        if brings_token(call):
            raise GateError(ErrorCode.OPERATION_TOKEN_INVALID, "an approval is needed, which no token replaces")
        if len(awaited.tasks) > MAX_AWAITED:
            raise GateError(ErrorCode.INVALID_PARAMS, f"more than {MAX_AWAITED} tasks that wait for people")
        for task in awaited.tasks.values():
            parked = await self._parking.current(task.approval)
            if session is None or parked is None or parked.call.session != session.id:
                raise GateError(ErrorCode.MCP_TASK_UNKNOWN, "a parked call of another session, or long gone")
        return "" if session is None else session.id

    # `subscriptions/listen` (MCP 2026-07-28).

    async def _serve(self, admitted: Admitted, awaited: AwaitedTasks, line: Line, shared: SharedStream) -> None:
        """Keep a stream open that is about tasks of Twogate's alone."""
        call, silent = admitted.call, 0

        async def renew() -> None:
            again = await line.again(call)
            if isinstance(again, Refused):
                await self._teller.note(again)
                raise again.error

        await shared.begin()
        await shared.tell(forms.listening(awaited.tasks, call.message.id))
        try:
            async with aclosing(paced(_silence(), renew, self._closing)) as ticks:
                async for _ in ticks:
                    silent += 1
                    if silent % KEEP_ALIVE_TICKS == 0:
                        await shared.keep_alive()
        except GateError:
            # As every stream ends whose caller may not listen any more.
            await shared.end(None)
        else:
            await shared.end(forms.listened(call.message.id))

    async def _follow(self, admitted: Admitted, task: _Followed, line: Line, shared: SharedStream, ask: Ask) -> None:
        """Tell how one task stands, now and whenever that changes, until it is over."""
        call, pause, told, noted = admitted.call, self._pace.poll, None, False
        while not (self._waits.over or shared.served.is_set()):
            if shared.open and shared.heard:
                try:
                    stood = await ask(call, task.approval, task.session, line)
                    if isinstance(stood, Refused) or (stood.kept is not None and stood.standing is Standing.READY):
                        # It was not sent, and may be later.
                        pause = forms.POLL_MS / 1000
                        if isinstance(stood, Refused) and not noted:
                            noted = True
                            await self._teller.note(stood)
                    elif (stood.parked.state, stood.standing) != told:
                        if not await self._tell_task(admitted, task, stood, line, shared):
                            return
                        told = (stood.parked.state, stood.standing)
                        if stood.standing not in _OPEN:
                            return
                except GateError as error:
                    if error.code in _GONE:
                        return
            await _pause(shared, pause)

    async def _tell_task(
        self, admitted: Admitted, task: _Followed, stood: Stood, line: Line, shared: SharedStream
    ) -> bool:
        again = await line.again(admitted.call)
        if isinstance(again, Refused):
            return False
        told = await self._teller.task(again, task.sealed, stood.parked, stood.standing, stood.kept)
        return await shared.tell(forms.task_notification(told, admitted.call.message.id))

    # The GET stream (MCP 2025-11-25).

    async def _tell_decided(self, admitted: Admitted, line: Line, shared: SharedStream) -> None:
        """Tell of each call that people decide while this stream is open."""
        call, session = admitted.call, admitted.session
        if session is None:
            return
        with suppress(GateError):
            for approval in self._elicited.open(call):
                # Nobody listened when that was decided.
                if await self._decided(approval, session.id):
                    self._elicited.take(call, approval)
        while not (self._waits.over or shared.served.is_set()):
            await _pause(shared, self._pace.poll)
            with suppress(GateError):
                for approval in self._elicited.open(call) if shared.open else ():
                    if not await self._decided(approval, session.id):
                        continue
                    if isinstance(await line.again(call), Refused):
                        return
                    if self._elicited.take(call, approval):
                        await shared.tell(forms.elicitation_complete(approval))

    async def _decided(self, approval: str, session: str) -> bool:
        parked = await self._parking.current(approval)
        return parked is not None and parked.call.session == session and parked.state is not State.PENDING


class _Followed(NamedTuple):
    sealed: str
    approval: str
    session: str


def require_tasks(call: Call) -> None:
    """Check that a request about tasks comes from a client that takes any (tasks extension, "Protocol Errors").

    Raises:
        GateError: CAPABILITY_MISSING.
    """
    if not forms.takes_tasks(call):
        wanted: dict[str, Any] = {"requiredCapabilities": {"extensions": {forms.TASKS_EXTENSION: {}}}}
        raise GateError(ErrorCode.CAPABILITY_MISSING, "the tasks extension is not declared", data=wanted)


async def _beside(served: Awaitable[None], shared: SharedStream, followed: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Serve a stream, and follow what else is told on it until that ends."""
    tasks = [asyncio.ensure_future(one) for one in followed]
    try:
        await served
        # The one run of a call, if it goes on within this stream, is not broken off because nobody is told of it.
        shared.served.set()
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        # Nor at once because the client went away.
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _pause(shared: SharedStream, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await shared.served.wait()


async def _silence() -> AsyncGenerator[bytes]:
    await asyncio.Event().wait()
    yield b""
