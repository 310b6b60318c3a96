"""Device authorization: a device or command line asks here, a person decides elsewhere, the token endpoint answers.

RFC 8628. What the person does is in `device_decision`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final, Protocol

import msgspec

from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.limits import TokenBuckets, address_key
from twogate.core.oauth import device
from twogate.core.oauth.device import DeviceState
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.token_request import parse_wanted, verify_wanted
from twogate.core.principal import Agent
from twogate.flows.authserver.access_tokens import TokenSettings
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.form import Answer, ClientCall, FormRequest, Forms, JsonAnswer
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.narrowing import verify_same
from twogate.flows.environment import Clock, Rng

MAX_DRAWS: Final = 4
"""User codes drawn before giving up. With millions of live codes a single draw would still be free nearly always."""

_DEVICE_CODE: Final = re.compile(rf"[A-Za-z0-9_-]{{{device.DEVICE_CODE_LENGTH}}}")


class DeviceRequest(msgspec.Struct, frozen=True):
    """What a device asked for, and from where.

    `proof` is the thumbprint of the key that it proved to hold; whoever redeems the code must hold that key too.
    """

    resource: str
    scopes: tuple[str, ...]
    task: str | None = None
    proof: str | None = None
    address: str = ""


class DeviceCode(msgspec.Struct, frozen=True):
    """A device code by its SHA-256 digest (lower-case hex). Times are Unix seconds, `interval` is in seconds.

    `authorization` is what the person allowed; None in every other state than ALLOWED and REDEEMED.
    """

    digest: str
    user_code: str
    client_id: str
    request: DeviceRequest
    expires_at: int
    state: DeviceState = DeviceState.PENDING
    authorization: Authorization | None = None
    interval: int = device.INTERVAL
    polled_at: int = 0

    def __repr__(self) -> str:
        """Name the client: with the user code, anybody could decide."""
        return f"DeviceCode({self.client_id!r}, {self.state.value})"


class DeviceStore(Protocol):
    """Keeps device codes until some time after they expired."""

    async def add(self, code: DeviceCode, now: int) -> bool:
        """Keep a new code; False if its user code is taken, and nothing was kept.

        Raises:
            GateError: STORE_UNAVAILABLE; so everywhere here.
        """
        ...

    async def get(self, digest: str) -> DeviceCode | None:
        """A code as of now, whatever became of it."""
        ...

    async def waiting(self, user_code: str, now: int) -> DeviceCode | None:
        """The code that waits for a person's decision."""
        ...

    async def decide(
        self, user_code: str, authorization: Authorization | None, now: int, announce: Callable[[], Awaitable[None]]
    ) -> bool:
        """Allow a waiting code, or deny it (None); False if it does not wait. Of several at once, one decides.

        `announce` is awaited before the decision is committed; if it fails, nothing was decided.
        """
        ...

    async def note_poll(self, digest: str, interval: int, now: int) -> None:
        """Note a poll of a waiting code, and how far apart its polls must be from now on."""
        ...

    async def redeem(self, digest: str, now: int) -> bool:
        """Take what was allowed; True exactly once, and never once the code has expired."""
        ...

    async def forget(self, tenant: str, subject: str, client_id: str) -> None:
        """Forget what a person allowed devices of a client, and what was not redeemed."""
        ...


class Families(Protocol):
    """Turns what was granted into tokens."""

    async def start(
        self, authorization: Authorization, client: Client, agent: Agent | None, call: ClientCall, *, refresh: bool
    ) -> JsonAnswer:
        """The tokens of a new grant, a refresh token with them if `refresh` and the client may have one.

        Raises:
            GateError: see `AccessTokens.issue`.
        """
        ...


class DeviceLimits:
    """How often an address may try user codes, and how often it may begin without authenticating, in one process.

    With 5 tries and one more every 2 minutes, an address that tries for the 10 minutes that a code lives has about ten
    tries among 2.56e10 codes.
    """

    def __init__(self) -> None:
        self._tries = TokenBuckets(rate=1 / 120, burst=5)
        self._begun = TokenBuckets(rate=0.5, burst=30)

    def begin(self, address: str, now: float) -> None:
        """Count a device authorization of a public client.

        Raises:
            GateError: RATE_LIMITED.
        """
        if self._begun.take(address_key(address), now):
            raise GateError(ErrorCode.RATE_LIMITED, "too many device authorizations from this address")

    def enter(self, address: str, now: float) -> None:
        """Count a try, before anybody looks whether it is right.

        Raises:
            GateError: RATE_LIMITED.
        """
        if self._tries.take(address_key(address), now):
            raise GateError(ErrorCode.RATE_LIMITED, "too many wrong user codes from this address")

    def entered_rightly(self, address: str) -> None:
        """Do not count the last try after all."""
        self._tries.give_back(address_key(address))


class DeviceAuthorization:
    """The device authorization endpoint (section 3.1)."""

    def __init__(
        self,
        forms: Forms,
        store: DeviceStore,
        settings: TokenSettings,
        limits: DeviceLimits,
        clock: Clock,
        rng: Rng,
        lifetime: int,
    ) -> None:
        """`lifetime` of a device code is in seconds."""
        self._forms = forms
        self._store = store
        self._settings = settings
        self._limits = limits
        self._clock = clock
        self._rng = rng
        self._lifetime = lifetime

    async def respond(self, request: FormRequest) -> Answer:
        """Answer one request. Nothing is granted by it."""
        return await self._forms.serve(request, self._begin, refused=EventKind.AUTHORIZATION_REFUSED)

    async def _begin(self, call: ClientCall) -> JsonAnswer:
        client = call.client
        if client is None or call.agent is None or GrantType.DEVICE_CODE not in client.grants:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "the client may not use device codes")
        wanted = parse_wanted(call.form)
        verify_wanted(wanted, self._settings.resources_of(client), self._settings.scopes)
        # Told now, because the person would otherwise decide on something that the token endpoint then refuses.
        if wanted.task is not None and wanted.task not in call.agent.tasks:
            raise GateError(ErrorCode.DETAILS_INVALID, "the client's agent has no such task")
        if client.auth is ClientAuth.NONE:
            self._limits.begin(call.address, self._clock.monotonic())
        request = DeviceRequest(wanted.resource, wanted.scopes, wanted.task, call.proof, call.address)
        device_code = base64.urlsafe_b64encode(self._rng.token(device.DEVICE_CODE_BYTES)).decode().rstrip("=")
        for _ in range(MAX_DRAWS):
            user_code = device.make_user_code(self._rng.token(device.USER_CODE_BYTES))
            kept = DeviceCode(digest_of(device_code), user_code, client.client_id, request, call.now + self._lifetime)
            if await self._store.add(kept, call.now):
                answer = device.authorization_answer(self._settings.issuer, device_code, user_code, self._lifetime)
                return JsonAnswer(answer)
        raise GateError(ErrorCode.STORE_UNAVAILABLE, "no free user code was found")


class DeviceGrant:
    """The grant by which a device polls and at last gets tokens (section 3.4); implements `grant.Grant`."""

    type: ClassVar[GrantType] = GrantType.DEVICE_CODE
    anonymous: ClassVar[bool] = False

    def __init__(self, store: DeviceStore, families: Families) -> None:
        self._store = store
        self._families = families

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """Answer a poll: not yet, no, or the tokens, which there are once.

        Raises:
            GateError: AUTHORIZATION_PENDING, SLOW_DOWN, DEVICE_CODE_EXPIRED, ACCESS_DENIED (section 3.5);
                GRANT_INVALID for a code that is unknown, redeemed, another client's or another key's;
                REQUEST_MALFORMED, RESOURCE_INVALID, DETAILS_INVALID; see `Families.start`.
        """
        presented, client = call.form.get("device_code"), call.client
        if presented is None or client is None:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "device_code is missing")
        if _DEVICE_CODE.fullmatch(presented) is None:
            raise GateError(ErrorCode.GRANT_INVALID, "no device code has this form")
        code = await self._store.get(digest_of(presented))
        # Before anything is changed: who has no right to the code must not be able to slow it down or use it up.
        if code is None or code.client_id != client.client_id:
            raise GateError(ErrorCode.GRANT_INVALID, "unknown device code, or another client's")
        if code.request.proof is not None and code.request.proof != call.proof:
            raise GateError(ErrorCode.GRANT_INVALID, "the device code is bound to another key")
        if call.now >= code.expires_at:
            raise GateError(ErrorCode.DEVICE_CODE_EXPIRED, "the device code has expired")
        if code.state is DeviceState.PENDING:
            polled = device.judge_poll(code.polled_at, code.interval, call.now)
            await self._store.note_poll(code.digest, polled.interval, call.now)
            raise GateError(polled.code, "nobody has decided")
        device.verify_change(code.state, DeviceState.REDEEMED)
        authorization = code.authorization
        if authorization is None:
            raise GateError(ErrorCode.GRANT_INVALID, "nothing was allowed")
        call.trace.user = authorization.user or ""
        verify_same(authorization, call.form)
        if not await self._store.redeem(code.digest, call.now):
            raise GateError(ErrorCode.GRANT_INVALID, "the device code was redeemed by another request")
        return await self._families.start(authorization, client, call.agent, call, refresh=True)


def digest_of(device_code: str) -> str:
    """What is stored of a device code: its SHA-256, lower-case hex."""
    return hashlib.sha256(device_code.encode()).hexdigest()
