"""The approvals of a tenant: the inbox, each call in full, and the two buttons (DESIGN decision 8)."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.approval import Decision, Duty, ParkedCall, State
from twogate.core.errors import ErrorCode, GateError
from twogate.core.shown import shown
from twogate.flows.approvals.parked import Parked, Parking
from twogate.flows.approvals.view import readable
from twogate.flows.approvals.voting import Approver, Voting
from twogate.flows.authserver.people import People
from twogate.flows.environment import Clock
from twogate.web.authserver import OnlyMethods
from twogate.web.console.frame import AGENTS, APPROVALS, OPERATORS, navigation
from twogate.web.console.visit import ConsoleVisits
from twogate.web.errors import http_status
from twogate.web.headers import security_headers
from twogate.web.pages import Browser, Pages
from twogate.web.visitors import as_attribute, shown_time, words_of

INBOX_PATH: Final = APPROVALS.path
APPROVAL_PATH: Final = "/approvals/"
"""Before an approval's id: where agents and messages send people."""

MOST: Final = 100
"""Calls on one page."""

_ON_THE_PAGE: Final = frozenset(
    {
        ErrorCode.PASSKEY_REFUSED,
        ErrorCode.APPROVER_REFUSED,
        ErrorCode.APPROVALS_LIMITED,
        ErrorCode.APPROVAL_DECIDED,
    }
)
_LOOKERS: Final = (Duty.VIEWER, Duty.APPROVER, Duty.OPERATOR, Duty.ADMINISTRATOR)


class ApprovalPages:
    """Serves them."""

    def __init__(self, pages: Pages, parking: Parking, voting: Voting, people: People, clock: Clock) -> None:
        self._pages = pages
        self._parking = parking
        self._voting = voting
        self._people = people
        self._clock = clock

    async def inbox(self, _: Request, browser: Browser, visitor: Approver) -> Response:
        """GET lists what waits, and what was decided last."""
        tenant = visitor.user.tenant
        waiting = await self._parking.list(tenant, frozenset({State.PENDING}), MOST + 1)
        decided = await self._parking.list(tenant, frozenset(State) - {State.PENDING}, MOST)
        now = self._clock.now()
        return self._pages.render(
            "approvals.html",
            browser,
            scripts=True,
            live=True,
            watches=True,
            nav=navigation(visitor.duties, APPROVALS),
            here=APPROVALS.path,
            visitor=visitor,
            waiting=[one for one in waiting[:MOST] if one.call.deadline > now],
            more_wait=len(waiting) > MOST,
            decided=decided,
            shown=shown,
            shown_time=shown_time,
            may_vote=self._voting.may_vote,
            path=APPROVAL_PATH,
        )

    async def show(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """GET shows one call in full."""
        parked = await self._voting.find(request.path_params["approval"], visitor)
        return await self._page(browser, visitor, parked)

    async def approve(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """POST approves it, by the passkey's answer."""
        form = await self._pages.read_form(request, browser)
        approval = request.path_params["approval"]
        try:
            parked = await self._voting.approve(approval, visitor, form.get("credential", ""), form.get("comment", ""))
        except GateError as error:
            return await self._wrong(approval, browser, visitor, error)
        return self._pages.redirect(APPROVAL_PATH + parked.call.id, browser)

    async def deny(self, request: Request, browser: Browser, visitor: Approver) -> Response:
        """POST denies it; from the inbox, which then is what is shown again."""
        form = await self._pages.read_form(request, browser)
        approval = request.path_params["approval"]
        try:
            parked = await self._voting.deny(approval, visitor, form.get("comment", ""))
        except GateError as error:
            return await self._wrong(approval, browser, visitor, error)
        from_inbox = form.get("back") == "inbox"
        return self._pages.redirect(INBOX_PATH if from_inbox else APPROVAL_PATH + parked.call.id, browser)

    async def _wrong(self, approval: str, browser: Browser, visitor: Approver, error: GateError) -> Response:
        if error.code not in _ON_THE_PAGE:
            raise error
        return await self._page(browser, visitor, await self._voting.find(approval, visitor), error)

    async def _page(
        self, browser: Browser, visitor: Approver, parked: Parked, error: GateError | None = None
    ) -> Response:
        may_vote = self._voting.may_vote(parked, visitor)
        options = await self._voting.options(parked, visitor, Decision.APPROVE) if may_vote else {}
        call = parked.call
        votes = [(await self._name(call.tenant, vote.approver), vote) for vote in parked.votes]
        return self._pages.render(
            "approval.html",
            browser,
            status=200 if error is None else http_status(error.code),
            scripts=may_vote,
            live=False,
            nav=navigation(visitor.duties, APPROVALS),
            here=INBOX_PATH + "/one",
            visitor=visitor,
            parked=parked,
            call=call,
            agents=None if parked.state is not State.PENDING or visitor.duties.isdisjoint(OPERATORS) else AGENTS.path,
            who_decides=_who_decides(call, self._clock.now()),
            requester=None if call.user is None else await self._requester(parked, visitor),
            members=readable(await self._parking.params(parked)),
            votes=votes,
            may_vote=may_vote,
            has_passkey=bool(options.get("allowCredentials")),
            options=as_attribute(options),
            wrong=None if error is None else words_of(error),
            shown=shown,
            shown_time=shown_time,
            inbox=INBOX_PATH,
            approve_path=f"{APPROVAL_PATH}{call.id}/approve",
            deny_path=f"{APPROVAL_PATH}{call.id}/deny",
        )

    async def _requester(self, parked: Parked, visitor: Approver) -> str:
        user = parked.call.user
        if user is None:
            return ""
        # Only our own server's people have names here.
        name = await self._name(parked.call.tenant, user.subject) if user.issuer == visitor.issuer else user.subject
        return shown(name)

    async def _name(self, tenant: str, subject: str) -> str:
        user = await self._people.user(tenant, subject)
        return subject if user is None else shown(user.label)


def _who_decides(call: ParkedCall, now: int) -> str:
    rule, waited = call.rule, now - call.created_at
    who = " or ".join(sorted(duty.value for duty in rule.voters(waited)))
    if rule.escalate_after is not None and waited < rule.escalate_after:
        more = " or ".join(sorted(duty.value for duty in rule.escalate_to))
        who += f"; from {shown_time(call.created_at + rule.escalate_after)} on also {more}"
    return who


def approval_routes(served: ApprovalPages, visits: ConsoleVisits, public_url: str) -> list[Route]:
    """`/console/approvals`, and each approval's own page."""
    base = security_headers(public_url)
    one = APPROVAL_PATH + "{approval:str}"
    return [
        Route(INBOX_PATH, OnlyMethods(visits.page(served.inbox, *_LOOKERS), base, "GET", "HEAD")),
        Route(one, OnlyMethods(visits.page(served.show, *_LOOKERS), base, "GET", "HEAD")),
        Route(f"{one}/approve", OnlyMethods(visits.page(served.approve, *_LOOKERS), base, "POST")),
        Route(f"{one}/deny", OnlyMethods(visits.page(served.deny, *_LOOKERS), base, "POST")),
    ]
