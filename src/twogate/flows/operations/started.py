"""A call that an operation token let start: from then on it may have run, unless nothing was sent."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from twogate.core.audit.record import Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Message
from twogate.flows.environment import Clock
from twogate.flows.operations.store import OperationStore

# What `Upstream.send` raises while it has sent nothing, and what is raised before it is asked.
_NOTHING_SENT: Final = frozenset(
    {ErrorCode.UPSTREAM_UNAVAILABLE, ErrorCode.SECRET_UNAVAILABLE, ErrorCode.KEYS_UNAVAILABLE}
)


class StartedOperation:
    """One use of a token. `message` and `body` are the canonical call: what was signed for, and all that is sent.

    `label` names the token and who issued it, for the audit trail.
    """

    def __init__(
        self, store: OperationStore, clock: Clock, jti: str, event: str, label: str, message: Message, body: bytes
    ) -> None:
        self._store = store
        self._clock = clock
        self._jti = jti
        self._event = event
        self._sending = False
        self._answered = False
        self._settled = False
        self.label = label
        self.message = message
        self.body = body

    def sending(self) -> None:
        """Told before the call goes upstream: from here on it may have run."""
        self._sending = True

    def answered(self) -> None:
        """Told when the server began to answer: whatever fails from here on, it got the call."""
        self._answered = True

    async def settle(self, outcome: Outcome, error: GateError | None = None) -> None:
        """Note how the call ended, once. If the server provably got nothing, the token is as good as before.

        A store that cannot be written leaves the token started: it never runs again, which is the safe side.
        """
        if self._settled:
            return
        self._settled = True
        unsent = not self._sending or (not self._answered and error is not None and error.code in _NOTHING_SENT)
        with suppress(GateError):
            if unsent:
                await self._store.undo(self._jti, self._event)
            else:
                await self._store.finish(self._jti, self._event, outcome.value, self._clock.now())
