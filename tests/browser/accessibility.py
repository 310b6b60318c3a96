"""What a checker and a ruler find wrong with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.async_api import Page

from peers.peers import NODE_PEERS, require

AXE = NODE_PEERS / "node_modules" / "axe-core" / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WIDTHS = {"light": 390, "dark": 1280}
TOUCH = 44
"""Pixels: the least height of what a finger presses on a phone."""

# What axe does not look at: the order of the page, its width, and whether a finger hits what it is meant to press.
_FAULTS = """([touch, narrow]) => {
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the window");
  for (const box of document.querySelectorAll(".scroll, pre")) {
    if (narrow && box.scrollWidth > box.clientWidth) faults.push("scrolls sideways: " + box.outerHTML.slice(0, 80));
  }
  for (const one of document.querySelectorAll("button, .button, nav a, .actions > a, .ask > summary")) {
    const height = one.getBoundingClientRect().height;
    if (narrow && height && height < touch) faults.push(`${height} pixels: ` + one.outerHTML.slice(0, 80));
  }
  return faults;
}"""


async def faults_of(page: Page, scheme: str) -> list[str]:
    """What is wrong with a page by axe (WCAG 2.1 A and AA, and more), in a scheme and the width that goes with it."""
    width = WIDTHS[scheme]
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 900})
    # Not by a script element, which the page's policy would rightly stop.
    await page.evaluate(_source())
    found: dict[str, Any] = await page.evaluate(
        "tags => axe.run({runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})", WCAG
    )
    by_axe = [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
    measured: list[str] = await page.evaluate(_FAULTS, [TOUCH, width < 600])
    return by_axe + measured


def _source() -> str:
    return Path(require(AXE)).read_text() + "\nundefined"
