"""Messages about calls that wait for people: which are due, what they say, and when one is tried again.

Pure. A message names who asks for what and where to decide; never an argument or a result, which may be secret: the
page shows them to whoever may see them. Nothing can be decided from a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec

from twogate.core.approval import Duty, ParkedCall, Rule, State
from twogate.core.shown import shown

MAX_ATTEMPTS: Final = 6
"""Times that one message is tried."""

PER_MINUTE: Final = 10
"""Messages of one tenant to one channel within a minute: people stop reading more (consent fatigue)."""

MINUTE: Final = 60
"""Seconds."""

TOLD_LATE: Final = 900
"""Seconds after a decision that people are still told of it."""

MAX_SUBJECT: Final = 120
"""Characters of a message's one line."""

_MAX_NAME: Final = 80
_FIRST_PAUSE: Final = 5
_LONGEST_PAUSE: Final = 300


class Kind(StrEnum):
    """Why people are told. TEST is asked for at the command line."""

    REQUESTED = "requested"
    REMINDED = "reminded"
    ESCALATED = "escalated"
    DECIDED = "decided"
    TEST = "test"


EVENTS: Final = (Kind.REQUESTED, Kind.REMINDED, Kind.ESCALATED, Kind.DECIDED)
"""What a channel can be for."""

_TITLES: Final = {
    Kind.REQUESTED: "A call waits for approval",
    Kind.REMINDED: "Reminder: a call still waits for approval",
    Kind.ESCALATED: "Escalated: nobody has decided about a call yet",
    Kind.DECIDED: "A call that waited is decided",
    Kind.TEST: "Test message: nothing waits",
}


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Texts of strangers are in the form of `named`; times are Unix seconds.

    `id` is the same each time that the message is tried, so that whoever gets it twice can tell. `more` is how many
    further messages of the tenant it stands for. `may_decide` are the duties that may vote now, `people` how many must
    approve.
    """

    id: str
    kind: Kind
    approval: str
    tenant: str
    tool: str
    agent: str
    task: str
    user: str
    state: State
    asked_at: int
    deadline: int
    people: int
    may_decide: tuple[Duty, ...]
    link: str
    more: int = 0

    @property
    def title(self) -> str:
        """What it is, in fixed words."""
        return _TITLES[self.kind]

    @property
    def subject(self) -> str:
        """One line, of at most MAX_SUBJECT characters."""
        line = f"{self.title}: {self.tool} ({self.tenant})"
        return line if len(line) <= MAX_SUBJECT else line[: MAX_SUBJECT - 1] + "…"

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What people are told, by name."""
        facts = [
            ("Tool", self.tool),
            ("Agent", self.agent),
            ("Task", self.task),
            ("For", self.user or "nobody: the agent calls on its own"),
            ("Tenant", self.tenant),
        ]
        if self.kind is Kind.DECIDED:
            return (*facts, ("Now", self.state.value))
        who = " or ".join(duty.value for duty in self.may_decide)
        count = "" if self.people == 1 else f", {self.people} people"
        return (*facts, ("Who decides", who + count), ("Decide before", moment(self.deadline)))

    @property
    def rest(self) -> str:
        """What else there is to say, if anything."""
        return f"And {self.more} more; the console lists them." if self.more else ""


class OpenCall(msgspec.Struct, frozen=True):
    """What tells which messages are due of a call. `told` are those that were made, as kind and channel."""

    approval: str
    tenant: str
    state: State
    created_at: int
    deadline: int
    rule: Rule
    decided_at: int | None = None
    reminded_at: int | None = None
    escalated_at: int | None = None
    told: frozenset[tuple[Kind, str]] = frozenset()


def due(call: OpenCall, now: int) -> Iterator[Kind]:
    """What people should have been told by now, whether or not they were."""
    if call.state is not State.PENDING:
        if call.decided_at is not None and now < call.decided_at + TOLD_LATE:
            yield Kind.DECIDED
        return
    if now >= call.deadline:
        return
    yield Kind.REQUESTED
    waited = now - call.created_at
    if call.rule.remind_after is not None and waited >= call.rule.remind_after:
        yield Kind.REMINDED
    if call.rule.escalate_after is not None and waited >= call.rule.escalate_after:
        yield Kind.ESCALATED


def is_moot(kind: Kind, state: State, deadline: int, now: int) -> bool:
    """Whether a message has nothing to say any more: who is asked to decide must be able to."""
    return kind is not Kind.DECIDED and (state is not State.PENDING or now >= deadline)


def pause(attempts: int, draw: int) -> int | None:
    """Seconds until a message that failed so many times is tried again; None if it is not.

    `draw` is a random byte: half of the time is fixed and half is by chance, so that replicas do not come together.
    """
    if attempts >= MAX_ATTEMPTS:
        return None
    whole: int = min(_FIRST_PAUSE * 3 ** (attempts - 1), _LONGEST_PAUSE)
    return max(1, (whole + whole * draw // 255) // 2)


def message_id(approval: str, kind: Kind, channel: str) -> str:
    """A message's own name, the same however often it is sent."""
    digest = hashlib.sha256(msgspec.json.encode(("twogate-notice-v1", approval, kind.value, channel))).hexdigest()
    return f"msg_{digest[:32]}"


def compose(
    kind: Kind, channel: str, call: ParkedCall, state: State, *, user: str, public_url: str, now: int, more: int = 0
) -> Notice:
    """The message of a call. `user` is what the person is called on whose behalf the agent calls, '' without one."""
    return Notice(
        id=message_id(call.id, kind, channel),
        kind=kind,
        approval=call.id,
        tenant=call.tenant,
        tool=named(call.tool),
        agent=named(call.agent),
        task=named(call.task),
        user=named(user),
        state=state,
        asked_at=call.created_at,
        deadline=call.deadline,
        people=call.rule.people,
        may_decide=tuple(sorted(call.rule.voters(now - call.created_at))),
        link=f"{public_url}/approvals/{call.id}",
        more=more,
    )


def named(text: str) -> str:
    """A stranger's text as messages hold it: as `shown`, and no URL that a mail reader would make a link of."""
    return shown(text, _MAX_NAME).replace("://", ":[//]")


def moment(at: int) -> str:
    """A time as people read it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
