"""The demo's own hold on a browser: starting, being told what went wrong, and ending."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from browser.chromium import find_chromium
from browser.conftest import Site
from twogate.cli.demo.browser import find_chromium as demo_finds
from twogate.cli.demo.browser import open_page
from twogate.cli.demo.devtools import BrowserError


def running_in(directory: Path) -> list[str]:
    """The processes that were started with something of a directory."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(directory).encode() in words:
            found.append(words.decode())
    return found


async def test_a_page_opens_only_with_the_certificate_that_it_is_told_to_trust(site: Site, tmp_path: Path) -> None:
    directory = site.gateway.directory
    async with open_page(find_chromium(), directory / "server.pem", tmp_path) as page:
        await page.go(f"{site.url}/login?tenant=acme")
        assert "Log in" in await page.evaluate("document.title")
        assert running_in(tmp_path)
        with pytest.raises(BrowserError, match="ERR_NAME_NOT_RESOLVED"):
            await page.go("https://twogate.invalid/")
        with pytest.raises(BrowserError, match=r"twogate\.invalid/link") as refused:
            await page.go("https://twogate.invalid/link#secret-of-a-link")
        assert "secret-of-a-link" not in str(refused.value)
        await page.go(f"{site.url}/login?tenant=acme")
        with pytest.raises(BrowserError, match="waited for a miracle; the page shows: Log in"):
            await page.until("false", "a miracle", patience=0.1)
    assert running_in(tmp_path) == []
    assert not (tmp_path / "browser").exists()
    async with open_page(find_chromium(), directory / "ca.pem", tmp_path) as page:
        with pytest.raises(BrowserError, match="ERR_CERT_AUTHORITY_INVALID"):
            await page.go(f"{site.url}/login?tenant=acme")


async def test_a_program_that_is_no_browser_is_told_with_what_it_printed(site: Site, tmp_path: Path) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no usable sandbox\n")
    program.chmod(0o700)
    with pytest.raises(BrowserError, match=r"did not start .*no usable sandbox"):
        async with open_page(str(program), site.gateway.directory / "server.pem", tmp_path):
            pass


def test_the_named_browser_wins_an_empty_name_is_none_and_else_the_first_on_the_search_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo_finds(None) is None
    for name in ("google-chrome", "chromium-browser"):
        shutil.copy("/bin/sh", tmp_path / name)
        assert demo_finds(None) == str(tmp_path / name)
    assert demo_finds("/opt/chromium") == "/opt/chromium"
    assert demo_finds("") is None
