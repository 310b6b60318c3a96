"""The token endpoint: every grant ends here (RFC 6749 section 3.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.token_request import parse_grant_type
from twogate.flows.authserver.clients import Client, ClientSource
from twogate.flows.authserver.form import Answer, ClientCall, FormRequest, Forms, JsonAnswer
from twogate.flows.authserver.grant import Grant


class TokenEndpoint:
    """Answers token requests by the grant that they ask for. `keep` is told of each token of a registered client."""

    def __init__(
        self, forms: Forms, grants: Iterable[Grant], keep: Callable[[Client, int], Awaitable[None]] | None = None
    ) -> None:
        self._forms = forms
        self._keep = keep
        self._grants: Mapping[GrantType, Grant] = {grant.type: grant for grant in grants}

    @property
    def grants(self) -> frozenset[GrantType]:
        """The grant types that exist here, as the metadata names them."""
        return frozenset(self._grants)

    async def respond(self, request: FormRequest) -> Answer:
        """Answer one request. The audit trail has the answer first; if it cannot be written, nothing is issued."""
        return await self._forms.serve(request, self._issue, anonymous=self._is_anonymous)

    def _grant(self, form: Mapping[str, str]) -> Grant:
        grant = self._grants.get(parse_grant_type(form))
        if grant is None:
            raise GateError(ErrorCode.GRANT_UNSUPPORTED, "the grant type is not in use here")
        return grant

    def _is_anonymous(self, form: Mapping[str, str]) -> bool:
        # Before the client is looked at: a request for no grant is refused whoever makes it.
        return self._grant(form).anonymous

    async def _issue(self, call: ClientCall) -> JsonAnswer:
        grant = self._grant(call.form)
        if call.client is not None and grant.type not in call.client.grants:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, f"the client may not use {grant.type}")
        answer = await grant.issue(call)
        if self._keep is not None and call.client is not None and call.client.source is ClientSource.REGISTERED:
            await self._keep(call.client, call.now)
        return answer
