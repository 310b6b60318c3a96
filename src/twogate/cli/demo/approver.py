"""The demo's approver: a person at a browser, who enrols a passkey, reads what will run, and approves it."""

from __future__ import annotations

from typing import Final

from twogate.cli.demo.devtools import BrowserError, Page

_ENROLLED: Final = "location.pathname === '/setup' && !document.querySelector('[data-passkey=create]')"
_MAY_APPROVE: Final = "document.querySelector('[data-passkey=get][action$=\"/approve\"]')"


class Approver:
    """Somebody who got a link from `twogate user add`."""

    def __init__(self, page: Page, link: str) -> None:
        self._page = page
        self._link = link

    async def enrol(self) -> None:
        """Open the link and create a passkey.

        Raises:
            BrowserError: a page did not become what it must.
        """
        await self._page.go(self._link)
        await self._page.press("form[action='/link'] button", "location.pathname === '/setup'", "the set-up page")
        await self._page.press("[data-passkey=create] button", _ENROLLED, "the passkey to be enrolled")

    async def approve(self, url: str, words: str) -> None:
        """Open the page of a call, log in by passkey where it asks for that, find the words there, and approve.

        Raises:
            BrowserError: a page did not become what it must.
        """
        await self._page.go(url)
        await self._page.press("[action='/login/passkey'] button", _MAY_APPROVE, "the page of the call")
        shown = str(await self._page.evaluate("document.body.innerText"))
        if words not in shown:
            raise BrowserError(f"the page does not show what will run: {words}")
        await self._page.press("[data-passkey=get] button", f"!{_MAY_APPROVE}", "the call to be approved")
