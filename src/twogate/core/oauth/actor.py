"""The `act` of an access token: who acts for its subject, as the gate judges it (RFC 8693 section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at
from twogate.core.oauth.exchange import MAX_ACTORS

CLAIM: Final = "act"


def verify_actor(claims: Mapping[str, Any], issuer: str, agent_pointer: str, agent: str, *, has_user: bool) -> None:
    """Check that a token with an `act` names the agent as its current actor, and a user for whom the agent acts.

    1. each actor is an object with a `sub`, and there are few; 2. the current one is the token's own issuer's; 3. it
    is `agent`, the issuer's name for the agent at `agent_pointer`; 4. there is a user: the subject is somebody else
    than the actor, and without a user it would be the agent alone that is judged.

    The earlier actors, inside, "are informational only and are not to be considered in access control decisions".

    Raises:
        GateError: CLAIM_INVALID, ACTOR_REFUSED.
    """
    if CLAIM not in claims:
        return
    # 1.
    actors = _actors(claims[CLAIM])
    # 2. "The combination of the two claims 'iss' and 'sub' might be necessary to uniquely identify an actor."
    if string_at(actors[0], "/iss") not in (None, issuer):
        raise GateError(ErrorCode.ACTOR_REFUSED, "the actor is another issuer's")
    # 3.
    if not agent_pointer.startswith(f"/{CLAIM}/") and string_at(actors[0], "/sub") != agent:
        raise GateError(ErrorCode.ACTOR_REFUSED, f"the actor is not the agent at {agent_pointer}")
    # 4.
    if not has_user:
        raise GateError(ErrorCode.ACTOR_REFUSED, "somebody acts for a user, and the token names none")


def _actors(outermost: object) -> list[Mapping[str, Any]]:
    """The actors, the current one first."""
    found: list[Mapping[str, Any]] = []
    holder: Mapping[str, Any] = {CLAIM: outermost}
    while CLAIM in holder:
        claimed: object = holder[CLAIM]
        if not isinstance(claimed, Mapping):
            raise GateError(ErrorCode.CLAIM_INVALID, "act is not an object")
        actor = holder = cast("Mapping[str, Any]", claimed)
        if string_at(actor, "/sub") is None:
            raise GateError(ErrorCode.CLAIM_INVALID, "act names nobody")
        if len(found) == MAX_ACTORS:
            raise GateError(ErrorCode.ACTOR_REFUSED, f"more than {MAX_ACTORS} act for the subject")
        found.append(actor)
    return found
