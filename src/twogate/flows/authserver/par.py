"""Pushed authorization requests: what the browser would carry, from an authenticated client first (RFC 9126)."""

from __future__ import annotations

import msgspec

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorize_request import (
    REQUEST_URI_PREFIX,
    Parameters,
    find_redirect_uri,
    pushed_parameters,
)
from twogate.flows.authserver.clients import ClientAuth
from twogate.flows.authserver.form import Answer, ClientCall, FormRequest, Forms, JsonAnswer
from twogate.flows.authserver.interaction import Requests
from twogate.flows.authserver.presented import RefusedAsError
from twogate.flows.authserver.request_reader import RequestReader

_CREATED = 201


class PushedRequests:
    """Answers `POST /par`."""

    def __init__(self, forms: Forms, reader: RequestReader, requests: Requests) -> None:
        self._forms = forms
        self._reader = reader
        self._requests = requests

    async def respond(self, request: FormRequest) -> Answer:
        """A `request_uri` that this client may use once, at the authorization endpoint."""
        return await self._forms.serve(request, self._push, refused=EventKind.AUTHORIZATION_REFUSED)

    async def _push(self, call: ClientCall) -> JsonAnswer:
        client = call.client
        if client is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "no client")
        parameters = _with_proof(pushed_parameters(call.form, client.client_id), call.proof)
        try:
            redirect_uri, given = find_redirect_uri(parameters, client.redirect_uris)
        except GateError as error:
            # `invalid_redirect_uri` is a word of registration (RFC 7591 section 3.2.2), not of this endpoint.
            raise RefusedAsError(error, ErrorCode.REQUEST_MALFORMED, error.debug) from error
        # "in the same way as at the authorization endpoint" (RFC 9126 section 2.1), where it is judged once more.
        await self._reader.read(parameters, client, redirect_uri, given=given)
        stranger = call.address if client.auth is ClientAuth.NONE else None
        handle = await self._requests.push(parameters, client.client_id, call.now, stranger)
        body = {"request_uri": REQUEST_URI_PREFIX + handle, "expires_in": self._requests.pushed_lifetime}
        return JsonAnswer(body, status=_CREATED)


def _with_proof(parameters: Parameters, proof: str | None) -> Parameters:
    """Bind the code to the key that the client proved to hold (RFC 9449 section 10.1)."""
    if proof is None:
        return parameters
    if parameters.values.get("dpop_jkt", proof) != proof:
        # "the authorization server MUST reject the request if the JWK thumbprint … does not match"
        raise GateError(ErrorCode.DPOP_INVALID, "dpop_jkt names another key than the proof")
    return msgspec.structs.replace(parameters, values={**parameters.values, "dpop_jkt": proof})
