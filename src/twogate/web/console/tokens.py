"""`/console/tokens`: a person signs for one call of their own session, and gets the token that lets it run once.

It takes a login by passkey less than five minutes old (DESIGN decision 7): a cookie alone, which another may have, lets
nothing run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_DEPTH
from twogate.core.operation import MAX_CALL, digest_call
from twogate.core.principal import UserId
from twogate.core.session import Session
from twogate.flows.approvals.view import readable
from twogate.flows.approvals.voting import Approver
from twogate.flows.environment import Clock
from twogate.flows.operations.mint import Minted, MintToken, Wanted
from twogate.flows.operations.minter import person_minter
from twogate.web.console.desk import Desk
from twogate.web.console.frame import TOKENS
from twogate.web.errors import http_status
from twogate.web.pages import Browser
from twogate.web.peer import peer_address
from twogate.web.visitors import login_path, words_of

MOST: Final = 50
"""Sessions that the form proposes; the newest."""

# What the person can do something about on the page itself.
_ON_THE_PAGE: Final = frozenset(
    {
        ErrorCode.MINT_REFUSED,
        ErrorCode.INVALID_PARAMS,
        ErrorCode.PARSE_ERROR,
        ErrorCode.NOT_UTF8,
        ErrorCode.BAD_NUMBER,
        ErrorCode.DUPLICATE_KEY,
        ErrorCode.TOO_DEEP,
        ErrorCode.TOO_LARGE,
        ErrorCode.SESSION_ENDED,
        ErrorCode.SESSION_EXPIRED,
    }
)


class OwnSessions(Protocol):
    """Finds sessions; `flows.list_sessions` has the same need."""

    async def live(self, now: int, tenant: str, whose: UserId, most: int) -> Sequence[Session]:
        """A tenant's live sessions of this user with whichever agent; newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class TokenPage:
    """Serves it. `issuer` is our own server, whose people sign."""

    def __init__(self, desk: Desk, mint: MintToken, sessions: OwnSessions, clock: Clock, issuer: str) -> None:
        self._desk = desk
        self._mint = mint
        self._sessions = sessions
        self._clock = clock
        self._issuer = issuer

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows the form, if the person has just used a passkey."""
        return await self._page(request, browser, visitor, {})

    async def sign(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """POST gives the token, with the call that it is for as it will run."""
        form = await self._desk.pages.read_form(request, browser)
        if not await self._desk.visits.is_fresh(request, browser):
            error = GateError(ErrorCode.LOGIN_REQUIRED, "signing needs a login by passkey just before")
            return await self._page(request, browser, visitor, form, error)
        try:
            wanted = Wanted(
                form.get("session", ""), form.get("tool", "").strip(), _arguments(form.get("arguments", ""))
            )
            minted = await self._mint.sign(
                person_minter(visitor.user, self._issuer), wanted, peer_address(request.scope)
            )
        except GateError as error:
            if error.code not in _ON_THE_PAGE:
                raise
            return await self._page(request, browser, visitor, form, error)
        method, params = wanted.call()
        call = digest_call(method, wanted.tool, params)
        return await self._page(request, browser, visitor, {}, minted=minted, call=call.form)

    async def _page(
        self,
        request: Request,
        browser: Browser,
        visitor: Approver,
        given: Mapping[str, str],
        error: GateError | None = None,
        *,
        minted: Minted | None = None,
        call: bytes = b"{}",
    ) -> Response:
        own = UserId(self._issuer, visitor.user.subject)
        found = await self._sessions.live(self._clock.now(), visitor.user.tenant, own, MOST)
        return self._desk.render(
            "console_tokens.html",
            browser,
            visitor,
            TOKENS,
            status=200 if error is None else http_status(error.code),
            fresh=await self._desk.visits.is_fresh(request, browser),
            again=login_path(visitor.user.tenant, TOKENS.path, again=True),
            sessions=found,
            given={name: given.get(name, "") for name in ("session", "tool", "arguments")},
            wrong=None if error is None else words_of(error),
            minted=minted,
            members=readable(call) if minted is not None else (),
            action=TOKENS.path,
        )

    def routes(self) -> list[Route]:
        """`/console/tokens`."""
        pages = self._desk.visits

        async def serve(request: Request, browser: Browser, visitor: Approver) -> Response:
            return await (self.sign if request.method == "POST" else self.show)(request, browser, visitor)

        return [self._desk.restricted(TOKENS.path, pages.page(serve, *TOKENS.duties), "GET", "HEAD", "POST")]


def _arguments(text: str) -> dict[str, Any]:
    value = strict_json.decode(text.strip().encode() or b"{}", max_bytes=MAX_CALL, max_depth=MAX_DEPTH)
    if not isinstance(value, dict):
        raise GateError(ErrorCode.INVALID_PARAMS, "arguments that are no JSON object")
    return cast("dict[str, Any]", value)
