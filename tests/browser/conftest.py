"""A real `twogate serve` with people, and a real browser that trusts it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.async_api import Browser

from browser.chromium import chromium, find_chromium, trusting
from harness.stack import free_port
from processlab import Gateway, here_json, init, serving

SETTINGS: dict[str, Any] = {
    "servers": {},
    "tenants": {"acme": {}, "globex": {}},
    "groups": {"finance": {"role": "analyst"}},
}


@dataclass
class Site:
    """The server and its operator's command line."""

    gateway: Gateway

    @property
    def url(self) -> str:
        return self.gateway.url

    def user(self, *arguments: str) -> Any:
        """What `twogate user …` prints as JSON."""
        return here_json("user", *arguments, "--config", self.gateway.config)

    def link(self, *arguments: str) -> str:
        """The link that a command prints."""
        link: str = self.user(*arguments)["link"]
        return link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway on https://localhost, where passkeys work; each test has people of its own."""
    find_chromium()
    directory = tmp_path_factory.mktemp("site")
    init(directory, SETTINGS, port=free_port())
    with serving(directory) as gateway:
        yield Site(gateway)


@pytest.fixture
async def browser(site: Site) -> AsyncGenerator[Browser]:
    """A Chromium that trusts the gateway's certificate."""
    async with chromium(trusting(site.gateway.directory / "server.pem")) as running:
        yield running
