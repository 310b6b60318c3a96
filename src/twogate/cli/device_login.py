"""The device flow as a command line walks it (RFC 8628): the OAuth client behind `twogate login`.

What the server says is checked before it is used: it is shown in a terminal, and tokens are sent where it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import msgspec

from twogate.adapters.token_files import StoredTokens
from twogate.cli.origin import open_origin
from twogate.cli.output import CommandError
from twogate.core.errors import GateError
from twogate.core.oauth.authorization_details import details_of
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.metadata import WELL_KNOWN
from twogate.core.strict_json import decode
from twogate.flows.environment import Clock

MAX_ANSWER: Final = 64 * 1024
MIN_INTERVAL: Final = 1
MAX_INTERVAL: Final = 300

_MAX_DEPTH: Final = 8
_DEFAULT_INTERVAL: Final = 5
_SLOW_DOWN_STEP: Final = 5
_MAX_TOLD: Final = 300
_OK: Final = 200
_SERVER_ERROR: Final = 500


class DevicePrompt(msgspec.Struct, frozen=True):
    """What the person is to do. Times are in seconds."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int

    def __repr__(self) -> str:
        """Leave the codes out."""
        return f"DevicePrompt({self.verification_uri!r})"


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: Mapping[str, Any]

    @property
    def error(self) -> str:
        """The OAuth error word."""
        error = self.body.get("error")
        return error if isinstance(error, str) else f"HTTP {self.status}"

    @property
    def said(self) -> str:
        """The error as the server describes it."""
        text = self.body.get("error_description")
        return f"{self.error}: {text[:_MAX_TOLD]}" if isinstance(text, str) else self.error


class DeviceLogin:
    """Talks to one authorization server. `wait` pauses for some seconds."""

    def __init__(
        self, issuer: str, client_id: str, ca: Path | None, clock: Clock, wait: Callable[[float], object]
    ) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            CommandError: `issuer` is no https origin (http on loopback), or the CA file cannot be used.
        """
        http = open_origin(issuer, ca)
        self._issuer = issuer
        self._client_id = client_id
        self._clock = clock
        self._wait = wait
        self._http = http
        self._endpoints: Mapping[str, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def begin(self, resource: str, scope: str, task: str | None) -> DevicePrompt:
        """Ask for codes.

        Raises:
            CommandError: the server cannot be reached, has no device flow, or refuses.
        """
        form = {"client_id": self._client_id, "resource": resource}
        if scope:
            form["scope"] = scope
        if task is not None:
            form["authorization_details"] = msgspec.json.encode(details_of(task)).decode()
        answer = self._post(self._endpoint("device_authorization_endpoint"), form)
        if answer.status != _OK:
            raise self._refused(answer)
        body = {"interval": _DEFAULT_INTERVAL, **answer.body}
        # It is optional (RFC 8628 section 3.2).
        body.setdefault("verification_uri_complete", body.get("verification_uri"))
        try:
            prompt = msgspec.convert(body, DevicePrompt)
        except msgspec.ValidationError as error:
            raise CommandError("the server's answer holds no device and user code", code="answer_invalid") from error
        for url in (prompt.verification_uri, prompt.verification_uri_complete):
            self._check_own(url)
        return prompt

    def finish(self, prompt: DevicePrompt, resource: str) -> StoredTokens:
        """Wait until a person decided, and get the tokens.

        Raises:
            CommandError: the person said no, or nobody decided in time; the server cannot be reached or refuses.
        """
        waited, interval = 0.0, max(MIN_INTERVAL, min(prompt.interval, MAX_INTERVAL))
        while waited < prompt.expires_in:
            self._wait(interval)
            waited += interval
            form = {"grant_type": GrantType.DEVICE_CODE.value, "device_code": prompt.device_code, "resource": resource}
            try:
                answer = self._token(form)
            except CommandError as error:
                # "On encountering a connection timeout, clients MUST unilaterally reduce their polling frequency".
                if error.code != "unreachable":
                    raise
                interval = min(2 * interval, MAX_INTERVAL)
                continue
            if answer.status == _OK:
                return self._stored(answer, resource, None)
            match answer.error:
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval = min(interval + _SLOW_DOWN_STEP, MAX_INTERVAL)
                case "access_denied":
                    raise CommandError("the person said no", code="access_denied")
                case "expired_token":
                    break
                case _:
                    raise self._refused(answer)
        raise CommandError("nobody entered the code in time; begin again", code="expired")

    def refresh(self, tokens: StoredTokens) -> StoredTokens | None:
        """New tokens for the old ones; None if the server does not take these any more.

        Raises:
            CommandError: the server cannot be reached, or fails.
        """
        form = {
            "grant_type": GrantType.REFRESH_TOKEN.value,
            "refresh_token": tokens.refresh_token or "",
            "resource": tokens.resource,
        }
        answer = self._token(form)
        if answer.status == _OK:
            return self._stored(answer, tokens.resource, tokens)
        if answer.error == "invalid_grant":
            return None
        raise self._refused(answer)

    def revoke(self, tokens: StoredTokens) -> None:
        """Let the server end what these tokens stand for (RFC 7009).

        Raises:
            CommandError: the server cannot be reached, or refuses.
        """
        token = tokens.refresh_token or tokens.access_token
        answer = self._post(self._endpoint("revocation_endpoint"), {"client_id": self._client_id, "token": token})
        if answer.status != _OK:
            raise self._refused(answer)

    def _token(self, form: Mapping[str, str]) -> _Answer:
        return self._post(self._endpoint("token_endpoint"), {"client_id": self._client_id, **form})

    def _stored(self, answer: _Answer, resource: str, before: StoredTokens | None) -> StoredTokens:
        body = answer.body
        token, lifetime, refresh = body.get("access_token"), body.get("expires_in"), body.get("refresh_token")
        kind, scope = body.get("token_type"), body.get("scope", "" if before is None else before.scope)
        bearer = isinstance(kind, str) and kind.lower() == "bearer"
        if not (bearer and isinstance(token, str) and isinstance(lifetime, int) and isinstance(scope, str)):
            raise CommandError("the server's answer holds no bearer token", code="answer_invalid")
        if refresh is None and before is not None:
            refresh = before.refresh_token
        return StoredTokens(
            issuer=self._issuer,
            client_id=self._client_id,
            resource=resource,
            scope=scope,
            access_token=token,
            expires_at=self._clock.now() + lifetime,
            refresh_token=refresh if isinstance(refresh, str) else None,
        )

    def _endpoint(self, name: str) -> str:
        if self._endpoints is None:
            answer = self._answer(self._http.build_request("GET", self._issuer + WELL_KNOWN))
            # RFC 8414 section 3.3: "the metadata MUST NOT be used" if the issuer is another.
            if answer.status != _OK or answer.body.get("issuer") != self._issuer:
                raise CommandError(f"{self._issuer} is no Twogate, or has another public_url", code="answer_invalid")
            self._endpoints = answer.body
        endpoint = self._endpoints.get(name)
        if not isinstance(endpoint, str):
            raise CommandError(f"the server at {self._issuer} has no {name}", code="unsupported")
        self._check_own(endpoint)
        return endpoint

    def _check_own(self, url: str) -> None:
        if not url.startswith(self._issuer + "/") or not url.isprintable():
            raise CommandError("the server names an address that is not its own", code="answer_invalid")

    def _post(self, url: str, form: Mapping[str, str]) -> _Answer:
        return self._answer(self._http.build_request("POST", url, data=form))

    def _answer(self, request: httpx2.Request) -> _Answer:
        body = bytearray()
        try:
            response = self._http.send(request, stream=True)
            try:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER:
                        raise CommandError("the server's answer is too large", code="answer_invalid")
            finally:
                response.close()
        except httpx2.HTTPError as error:
            raise CommandError(
                f"{self._issuer} cannot be reached: {str(error) or type(error).__name__}", code="unreachable"
            ) from error
        if response.status_code >= _SERVER_ERROR:
            raise CommandError(f"{self._issuer} cannot answer now: HTTP {response.status_code}", code="unreachable")
        try:
            # A revocation is answered with nothing (RFC 7009 section 2.2).
            value: object = decode(bytes(body), max_bytes=MAX_ANSWER, max_depth=_MAX_DEPTH) if body else {}
            return _Answer(response.status_code, msgspec.convert(value, dict[str, Any]))
        except (GateError, msgspec.ValidationError):
            raise CommandError(
                f"{self._issuer} answered with no JSON object; is it a Twogate?", code="answer_invalid"
            ) from None

    def _refused(self, answer: _Answer) -> CommandError:
        if answer.error in ("invalid_client", "unauthorized_client"):
            return CommandError(
                f"the server knows no public client {self._client_id} that may use the device flow ({answer.error}); "
                "an operator adds one with `twogate client add`",
                code=answer.error,
            )
        return CommandError(f"the server refused: {answer.said}", code="refused", data={"oauth_error": answer.error})
