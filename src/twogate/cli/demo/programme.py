"""The demo's acts, in order, and how they are played."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from twogate.cli.demo.agent import BROKEN, Agent
from twogate.cli.demo.approving import Approving
from twogate.cli.demo.devtools import BrowserError
from twogate.cli.demo.gates import cut_off, what_the_task_holds, who_calls
from twogate.cli.demo.signing import signed_for
from twogate.cli.demo.step import Act, Step


def acts(agent: Agent, chromium: str | None) -> Sequence[Act]:
    """All of them; the approver's browser is `chromium`, if there is one."""
    return (
        Act(
            "Gate one: who is calling?",
            "An agent on the official Python client, with a key of its own.",
            lambda: who_calls(agent),
        ),
        Act(
            "Gate two: does its task hold this call?",
            "It declares what it set out to do, and gets a session for that, which never grows.",
            lambda: what_the_task_holds(agent),
        ),
        Act(
            "Gate two: a program signs for a call",
            "A write to the database needs an operation token: for one call, as it is, once.",
            lambda: signed_for(agent),
        ),
        Act(
            "Gate two: a person signs for a call",
            "A commit waits until somebody has read what exactly will run, and signed it with a passkey.",
            lambda: Approving(agent, chromium).play(),
        ),
        Act("Cut off", "What is disabled is refused at the next request.", lambda: cut_off(agent)),
    )


async def played(act: Act) -> AsyncGenerator[Step]:
    """The steps of an act; one that breaks is one that did not go as it must, and ends the act."""
    try:
        async for step in act.play():
            yield step
    except (*BROKEN, BrowserError, ExceptionGroup) as error:
        yield Step("the act broke off", "-", "failed", "; ".join(_told(error)), expected=False)


def _told(error: BaseException) -> Iterator[str]:
    """The words of an error, or of each in a group."""
    if isinstance(error, BaseExceptionGroup):
        for cause in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _told(cause)
    else:
        yield str(error) or type(error).__name__
