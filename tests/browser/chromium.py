"""A real Chromium for tests: the system's, or the one that npm has; with passkeys, if asked for."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.async_api import Browser, BrowserContext, CDPSession, Page, async_playwright

from peers.peers import NODE, NODE_PEERS
from processlab import PATIENCE

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PACKAGE = NODE_PEERS / "node_modules" / "@sparticuz" / "chromium"

# The package holds the program compressed; asking for its path unpacks it below the temporary directory.
_UNPACK = "import('@sparticuz/chromium').then(async (found) => console.log(await found.default.executablePath()))"


def find_chromium() -> str:
    """The path of a Chromium; skips the test, or fails it in CI, if there is none."""
    if (system := shutil.which("chromium")) is not None:
        return system
    if PACKAGE.exists() and NODE.exists():
        done = subprocess.run(
            [str(NODE), "--input-type=module", "-e", _UNPACK],
            cwd=NODE_PEERS,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout.strip()
    reason = (
        "CHROMIUM IS MISSING, so no page was tried in a browser; install it: apt-get install chromium, or make peers"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def trusting(certificate: Path) -> str:
    """The flag by which Chromium takes the first certificate of a file for good: others are refused as ever."""
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


@asynccontextmanager
async def chromium(*flags: str) -> AsyncGenerator[Browser]:
    """A running browser, ended with the block."""
    # A profile of its own and no more: what the user of this machine has set must not decide a test.
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=find_chromium(), args=[*FLAGS.split(), *flags])
        try:
            yield running
        finally:
            await running.close()


@dataclass
class Authenticator:
    """A virtual authenticator of one page (CDP, domain WebAuthn)."""

    session: CDPSession
    id: str

    async def credentials(self) -> list[dict[str, Any]]:
        """The passkeys that it holds."""
        answer = await self.session.send("WebAuthn.getCredentials", {"authenticatorId": self.id})
        found: list[dict[str, Any]] = answer["credentials"]
        return found

    async def put(self, credential: Mapping[str, Any]) -> None:
        """Copy a passkey into it."""
        await self.session.send("WebAuthn.addCredential", {"authenticatorId": self.id, "credential": dict(credential)})

    async def verifies(self, verified: bool) -> None:
        """Whether its user is known by PIN or finger from now on."""
        await self.session.send("WebAuthn.setUserVerified", {"authenticatorId": self.id, "isUserVerified": verified})


async def add_authenticator(page: Page, **changes: object) -> Authenticator:
    """Give a page a device that holds passkeys and whose user is there and verified."""
    session = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
        **changes,
    }
    answer = await session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return Authenticator(session, answer["authenticatorId"])


@dataclass
class Person:
    """Somebody at a browser of their own, with one device for passkeys."""

    context: BrowserContext
    page: Page
    device: Authenticator


@asynccontextmanager
async def person(browser: Browser, **options: Any) -> AsyncGenerator[Person]:
    """A browser profile without cookies, its one page, and a device."""
    context = await browser.new_context(**options)
    try:
        page = await context.new_page()
        yield Person(context, page, await add_authenticator(page))
    finally:
        await context.close()
