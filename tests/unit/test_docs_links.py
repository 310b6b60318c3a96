"""What the documents point at exists: other documents, headings in them, and files of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:src|tests|bench|docs)/[\w./*-]*)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return _FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, as renderers of Markdown make them."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(document)))
    return {heading.strip().replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    """The relative links that lead nowhere."""
    broken = []
    for link in _LINK.findall(prose(document)):
        path, _, fragment = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    return broken


MADE = "bench/out/"
"""What `make bench` writes is not there in a fresh checkout."""


def missing_paths(document: Path) -> list[str]:
    """The paths in code spans that match no file."""
    named = (path for path in _PATH.findall(prose(document)) if not path.startswith(MADE))
    return [path for path in named if not any(ROOT.glob(path.rstrip("/")))]


def name(document: Path) -> str:
    """How the tests call a document."""
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_path_of_the_repository_that_is_named_exists(document: Path) -> None:
    assert missing_paths(document) == []


def test_every_document_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(prose(index))}
    assert {document for document in DOCUMENTS if document != index} <= linked


def test_a_link_to_nowhere_and_a_path_of_no_file_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](#one-two) [b](#three) [c](other.md) [d](https://example.com/x) `src/twogate/no.py`\n"
    )
    assert broken_links(page) == ["#three", "other.md"]
    assert missing_paths(page) == ["src/twogate/no.py"]


@pytest.mark.parametrize("attack", sorted((ROOT / "tests" / "attacks").glob("test_*.py")), ids=name)
def test_every_attack_file_stands_in_the_threat_model(attack: Path) -> None:
    assert f"`tests/attacks/{attack.name}`" in (ROOT / "SECURITY.md").read_text()
