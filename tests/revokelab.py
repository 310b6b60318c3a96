"""Gate one over the token lab's server, with a token cache of its own: what a gateway makes of a token now."""

from __future__ import annotations

from tokenlab import FILES, Lab
from twogate.core.audit.accessor import Accessors
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import BearerToken


class Gate:
    """One gateway. It keeps its token cache, so that a token is judged anew by its revocation alone."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._authenticator = Authenticator(lab.own, Accessors("a1", bytes(32)))

    async def judge(self, token: str, resource: str = FILES) -> ErrorCode | None:
        """None if the token is let in, else why not."""
        try:
            view = await self._lab.agents.view()
            await self._authenticator.authenticate(BearerToken(token), resource, view, self._lab.clock.now())
        except GateError as error:
            return error.code
        return None
