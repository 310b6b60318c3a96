"""Device codes under any order of beginning, polling, entering, deciding and waiting, by the right client or another.

The model knows what an honest reading of RFC 8628 says of each poll.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from devicelab import CLI, LIFETIME, OTHER_CLI, DeviceLab, open_device_lab
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.device import INTERVAL, MAX_INTERVAL, POLL_LEEWAY, SLOW_DOWN_STEP
from twogate.stores.sql.device_codes import KEEP_EXPIRED

CLIENTS = (CLI, OTHER_CLI)
WAITS = (1, INTERVAL - 1, INTERVAL, 2 * INTERVAL, LIFETIME - 1, LIFETIME)
_numbers = itertools.count()


@dataclass
class Model:
    """What is true of one code."""

    client: str
    device_code: str
    user_code: str
    expires_at: int
    state: str = "pending"
    polled_at: int | None = None
    interval: int = INTERVAL
    forgotten: bool = False

    def poll(self, client: str, now: int) -> str:
        """What a poll is answered with: `tokens`, or an error."""
        if client != self.client or self.forgotten:
            return "invalid_grant"
        if now >= self.expires_at:
            return "expired_token"
        if self.state == "pending":
            early = self.polled_at is not None and now < self.polled_at + self.interval - POLL_LEEWAY
            self.polled_at = now
            if early:
                self.interval = min(self.interval + SLOW_DOWN_STEP, MAX_INTERVAL)
                return "slow_down"
            return "authorization_pending"
        answers = {"allowed": "tokens", "denied": "access_denied", "redeemed": "invalid_grant"}
        answer = answers[self.state]
        self.state = "redeemed" if self.state == "allowed" else self.state
        return answer


class Machine(RuleBasedStateMachine):
    directory: Path
    codes = Bundle("codes")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        directory = self.directory / str(next(_numbers))
        directory.mkdir(mode=0o700)
        self.lab: DeviceLab = self.runner.run(self.stack.enter_async_context(open_device_lab(directory)))
        self.known: list[Model] = []
        self.given = 0

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    @property
    def now(self) -> int:
        return self.lab.lab.clock.now()

    @rule(target=codes, client=st.sampled_from(CLIENTS))
    def a_device_begins(self, client: str) -> Model:
        begun = self.runner.run(self.lab.begun(client_id=client))
        for old in self.known:
            old.forgotten |= old.expires_at <= self.now - KEEP_EXPIRED
        model = Model(client, begun["device_code"], begun["user_code"], self.now + LIFETIME)
        assert not {model.device_code, model.user_code} & {
            value for other in self.known for value in (other.device_code, other.user_code)
        }
        self.known.append(model)
        return model

    @rule(code=codes, client=st.sampled_from((*CLIENTS, *CLIENTS[:1] * 3)))
    def a_device_polls(self, code: Model, client: str) -> None:
        answer = self.runner.run(self.lab.poll(code.device_code, client_id=client))
        said = "tokens" if answer.status_code == 200 else answer.json()["error"]
        assert said == code.poll(client, self.now)
        self.given += said == "tokens"

    @rule(code=codes, allow=st.booleans())
    def a_person_decides(self, code: Model, allow: bool) -> None:
        waits = code.state == "pending" and self.now < code.expires_at
        outcome = self.runner.run(self._outcome(code, allow=allow))
        if outcome is None:
            assert waits
            code.state = "allowed" if allow else "denied"
        else:
            # Wrong codes are limited, so a right one may have to wait for the next try.
            assert outcome is ErrorCode.RATE_LIMITED or (outcome is ErrorCode.DEVICE_CODE_EXPIRED and not waits)

    async def _outcome(self, code: Model, *, allow: bool) -> ErrorCode | None:
        try:
            await self.lab.decide(code.user_code, allow=allow)
        except GateError as error:
            return error.code
        return None

    @rule(code=codes, decisions=st.lists(st.booleans(), min_size=2, max_size=4))
    def people_who_see_the_same_page_decide_at_once(self, code: Model, decisions: list[bool]) -> None:
        async def race() -> list[ErrorCode | None]:
            return await asyncio.gather(*(self._outcome(code, allow=allow) for allow in decisions))

        waits = code.state == "pending" and self.now < code.expires_at
        outcomes = self.runner.run(race())
        decided = [allow for allow, outcome in zip(decisions, outcomes, strict=True) if outcome is None]
        assert len(decided) <= waits
        if decided:
            code.state = "allowed" if decided[0] else "denied"

    @rule(seconds=st.sampled_from(WAITS))
    def time_passes(self, seconds: int) -> None:
        self.lab.lab.clock.seconds += seconds

    @invariant()
    def each_allowed_code_gave_tokens_once_and_no_other_did(self) -> None:
        issued = [event for event in self.lab.lab.audit.events if event.kind is EventKind.TOKEN_ISSUED]
        assert len(issued) == self.given == sum(model.state == "redeemed" for model in self.known)


def test_device_codes_are_as_the_model_says(tmp_path: Path) -> None:
    class Here(Machine):
        directory = tmp_path

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
