"""The composition of approvals: calls that wait, and people who decide them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from twogate.adapters.passkeys import PasskeyLibrary, relying_party
from twogate.config import Settings
from twogate.config.approval_rules import approval_rules
from twogate.core.access import Policy
from twogate.flows.approvals.parked import Parking
from twogate.flows.approvals.voting import Voting
from twogate.flows.envelope import Envelope
from twogate.flows.gateway.approval import Approvals as Waiting
from twogate.flows.gateway.approval_elicited import Elicited
from twogate.flows.gateway.approval_listen import Listening
from twogate.flows.gateway.approval_tell import Teller
from twogate.flows.gateway.approval_wait import Pace, Waits
from twogate.flows.gateway.operation import Operations
from twogate.flows.gateway.parked_run import ParkedRuns
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.seal import Seal
from twogate.state import State
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.operations import SqlOperationStore
from twogate.stores.sql.passkeys import SqlPasskeyStore

PACE = Pace()
"""How calls are held that wait."""


@dataclass(frozen=True)
class Approvals:
    """Calls that wait, and who decides them; nobody can (`voting` is None) where passkeys cannot be used."""

    parking: Parking
    voting: Voting | None


def open_approvals(state: State, settings: Settings, envelope: Envelope) -> Approvals:
    """What the gateway, the pages and the commands need of approvals."""
    store = SqlParkedStore(state.engine)
    parking = Parking(store, envelope, state.audit, state.clock, state.rng, settings.duties)
    origin, rp_id = settings.public_url, relying_party(settings.public_url)
    if rp_id is None:
        return Approvals(parking, None)
    passkeys, verifier = SqlPasskeyStore(state.engine), PasskeyLibrary(origin, rp_id)
    voting = Voting(parking, store, passkeys, verifier, state.audit, state.clock, rp_id=rp_id, origin=origin)
    return Approvals(parking, voting)


def open_waiting(  # noqa: PLR0913 - what waiting takes of the gateway
    state: State,
    settings: Settings,
    policy: Policy,
    envelope: Envelope,
    seal: Seal,
    recorder: Recorder,
    operations: Operations,
    asks: Callable[[str], frozenset[str]],
    *,
    elicited: Elicited,
    closing: tuple[asyncio.Event, ...],
    draining: asyncio.Event,
) -> Waiting | None:
    """What lets calls wait for people; None where no tool needs an approval. `asks` is `Forwarder.asks`.

    Each of `closing` ends what waits. What runs goes on under another configuration; only `draining` cuts it short.
    """
    rules = approval_rules(settings)
    if not any(rules.values()):
        return None
    parking = open_approvals(state, settings, envelope).parking
    runs = ParkedRuns(parking, SqlOperationStore(state.engine), state.clock, (draining,))
    teller = Teller(settings.public_url, seal, recorder, parking, state.audit)
    waits = Waits(parking, runs, teller, elicited, closing, PACE)
    return Waiting(
        rules=rules,
        policy=policy,
        parking=parking,
        runs=runs,
        operations=operations,
        asks=asks,
        teller=teller,
        waits=waits,
        listening=Listening(parking, waits, teller, elicited, closing, PACE),
    )
