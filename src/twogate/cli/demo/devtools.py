"""One page of a Chromium, driven by the Chrome DevTools Protocol: as much of it as the demo's approver needs.

https://chromedevtools.github.io/devtools-protocol/: domains Target, Page, Runtime and WebAuthn; messages are JSON, each
ended by a NUL byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Self
from urllib.parse import urldefrag

import msgspec

PATIENCE: Final = 20.0
"""Seconds for an answer of the browser, and for a page to become what it must."""

MAX_MESSAGE: Final = 8 * 1024 * 1024
"""Bytes of one message of the browser."""

_END: Final = b"\0"
_POLL: Final = 0.03
_TOLD: Final = 300
_DEVICE: Final[dict[str, Any]] = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


class BrowserError(Exception):
    """The browser did not start, or a page did not become what it must."""


class Devtools:
    """Sends commands to a browser, and matches its answers to them. `listen` must run meanwhile."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0
        self._gone = False

    async def command(self, method: str, session: str = "", **params: object) -> dict[str, Any]:
        """Send a command and wait for its result.

        Raises:
            BrowserError: it was refused, took too long, or the browser is gone.
        """
        if self._gone:
            raise BrowserError("the browser is gone")
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(msgspec.json.encode(message) + _END)
            async with asyncio.timeout(PATIENCE):
                found = await answer
        except TimeoutError:
            raise BrowserError(f"{method} was not answered within {PATIENCE:.0f} s") from None
        finally:
            del self._waiting[number]
        if "error" in found:
            raise BrowserError(f"{method}: {found['error'].get('message', '')}")
        result: dict[str, Any] = found.get("result", {})
        return result

    async def listen(self) -> None:
        """Take answers until the browser is gone; its events say nothing that is needed here."""
        # LimitOverrunError and a message that is no JSON mean that this is no browser that can be spoken to.
        gone = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, msgspec.MsgspecError)
        with contextlib.suppress(*gone):
            while True:
                message = msgspec.json.decode((await self._reader.readuntil(_END)).rstrip(_END))
                answer = self._waiting.get(message.get("id"))
                if answer is not None and not answer.done():
                    answer.set_result(message)
        self._gone = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(BrowserError("the browser is gone"))


class Page:
    """One tab, with a device of its own that holds passkeys and whose user is always there and verified."""

    def __init__(self, devtools: Devtools, session: str) -> None:
        self._devtools = devtools
        self._session = session

    @classmethod
    async def open(cls, devtools: Devtools) -> Self:
        """A new tab.

        Raises:
            BrowserError: the browser has none to give.
        """
        target = await devtools.command("Target.createTarget", url="about:blank")
        attached = await devtools.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        session: str = attached["sessionId"]
        # Pages get a passkey only while they have the focus.
        await devtools.command("Emulation.setFocusEmulationEnabled", session, enabled=True)
        await devtools.command("WebAuthn.enable", session)
        await devtools.command("WebAuthn.addVirtualAuthenticator", session, options=_DEVICE)
        return cls(devtools, session)

    async def go(self, url: str) -> None:
        """Open an address, and wait until its page is complete.

        Raises:
            BrowserError: it cannot be opened; says which, but for its fragment, which is the secret of a one-time link.
        """
        told_url = urldefrag(url).url
        await self.evaluate("window.isLeft = true")
        told = await self._devtools.command("Page.navigate", self._session, url=url)
        if "errorText" in told:
            raise BrowserError(f"{told_url}: {told['errorText']}")
        await self.until("!window.isLeft", f"{told_url} to open")

    async def evaluate(self, script: str) -> Any:  # noqa: ANN401 - whatever JSON the script gives
        """What a script says on the page, as if its user had asked for it.

        Raises:
            BrowserError: it failed, or the page went away under it.
        """
        answer = await self._devtools.command(
            "Runtime.evaluate", self._session, expression=script, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"the page has no answer: {answer['exceptionDetails'].get('text', '')}")
        return answer["result"].get("value")

    async def until(self, script: str, wanted: str, patience: float = PATIENCE) -> None:
        """Wait until the page is complete and a script says true on it, over any number of pages; seconds at most.

        Raises:
            BrowserError: that took too long; says what the page shows instead.
        """
        clock = asyncio.get_running_loop()
        deadline = clock.time() + patience
        while clock.time() < deadline:
            # A page that is being left has no answer.
            with contextlib.suppress(BrowserError):
                if await self.evaluate(f"document.readyState === 'complete' && !!({script})"):
                    return
            await asyncio.sleep(_POLL)
        shown = await self.evaluate("document.title + ': ' + document.body.innerText")
        raise BrowserError(f"waited for {wanted}; the page shows: {' '.join(str(shown).split())[:_TOLD]}")

    async def press(self, button: str, then: str, wanted: str) -> None:
        """Press a button (a CSS selector) and wait until a script says true.

        Raises:
            BrowserError: there is no such button, or what must follow does not.
        """
        found = f"document.querySelector({msgspec.json.encode(button).decode()})"
        await self.until(found, f"the button {button}")
        await self.evaluate(f"{found}.click()")
        await self.until(then, wanted)
