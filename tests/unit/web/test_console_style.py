"""The style sheet's colours can be told apart: WCAG 2.2, contrast of text (1.4.3) and of what controls are known by."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import twogate.web
from twogate.core.approval import Duty
from twogate.web.console.frame import APPROVALS, OVERVIEW, PAGES, TOKENS, navigation

CSS = (Path(twogate.web.__file__).parent / "static" / "style.css").read_text()
TEMPLATES = Path(twogate.web.__file__).parent / "templates"

# Which text stands on which ground, anywhere in the pages.
TEXT = [
    *(
        (ink, ground)
        for ink in ("ink", "soft", "accent", "alarm", "good", "wait")
        for ground in ("ground", "card", "mark")
    ),
    ("on-accent", "accent"),
    ("card", "alarm"),
    ("ink", "was"),
    ("ink", "now"),
]


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light))
    return found | (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", dark)) if scheme == "dark" else {})


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_the_measure_is_the_one_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_edges_of_controls_can_be_read(scheme: str) -> None:
    held = colours(scheme)
    assert {name for pair in TEXT for name in pair} <= held.keys()
    faint = {pair: contrast(held[pair[0]], held[pair[1]]) for pair in TEXT}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < 4.5} == {}
    # The edge of an input, and the outline of what has the focus.
    for edge in ("soft", "accent"):
        assert min(contrast(held[edge], held[ground]) for ground in ("ground", "card")) >= 3


def test_no_colour_is_written_where_no_scheme_can_change_it() -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", rules) == []


def test_no_page_has_script_or_style_in_it() -> None:
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! src=)|javascript:|\|\s*safe", text), path.name


def test_htmx_may_not_evaluate_run_remember_or_go_elsewhere() -> None:
    (found,) = re.findall(r"""name="htmx-config" content='([^']+)'""", (TEMPLATES / "console.html").read_text())
    assert json.loads(found) == {
        "allowEval": False,
        "allowScriptTags": False,
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
        "historyEnabled": False,
        "historyCacheSize": 0,
        "allowNestedOobSwaps": False,
        "disableInheritance": True,
        "timeout": 20000,
    }
    # Without `live` no page of the console loads it, and no other page can.
    assert [path.name for path in TEMPLATES.glob("*.html") if "htmx.min.js" in path.read_text()] == ["console.html"]


def test_the_navigation_leads_to_what_a_duty_opens_and_nowhere_else() -> None:
    everything = [link.label for link in navigation(frozenset(Duty), OVERVIEW)]
    assert everything == [page.label for page in PAGES]
    assert [link.label for link in navigation({Duty.APPROVER}, APPROVALS)] == ["Overview", "Approvals", "Tokens"]
    assert [link.label for link in navigation({Duty.APPROVER}, OVERVIEW, {APPROVALS, TOKENS})] == ["Overview"]
    assert navigation(frozenset(), OVERVIEW) == []


def test_what_a_person_signs_for_is_shown_whole_and_not_within_a_box_of_its_own() -> None:
    (rule,) = re.findall(r"^pre \{(.*?)\}", CSS, re.DOTALL | re.MULTILINE)
    # Beside a button in sight, what is below the edge of a box is not read; and no run of blanks pushes anything out.
    assert "height" not in rule.replace("line-height", "")
    assert "white-space: pre-wrap" in rule
    assert "overflow-wrap: anywhere" in rule
