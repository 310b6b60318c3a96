"""What the package ships of others is byte for byte what their registry has, with its licence, and in the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import twogate.web
from peers.peers import NODE_PEERS, ROOT, require

STATIC = Path(twogate.web.__file__).parent / "static"
MODULES = NODE_PEERS / "node_modules"
VENDORED = {
    "htmx.min.js": ("htmx.org", "dist/htmx.min.js"),
    "htmx-sse.min.js": ("htmx-ext-sse", "dist/sse.min.js"),
}

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("name", sorted(VENDORED))
def test_a_vendored_script_is_the_published_one_of_the_version_that_is_named(name: str) -> None:
    package, path = VENDORED[name]
    published = Path(require(MODULES / package / path))
    assert (STATIC / name).read_bytes() == published.read_bytes()
    version = json.loads((MODULES / package / "package.json").read_text())["version"]
    assert version == json.loads((NODE_PEERS / "package.json").read_text())["dependencies"][package]
    told = (STATIC / "THIRD-PARTY.txt").read_text()
    assert [name, path, "of", package, version] in [line.split() for line in told.splitlines()]
    assert (MODULES / package / "LICENSE").read_text().strip() in told


def test_no_script_is_shipped_that_is_neither_ours_nor_named() -> None:
    assert {path.name for path in STATIC.glob("*.min.js")} == VENDORED.keys()


def test_a_wheel_has_every_page_and_what_pages_load(tmp_path: Path) -> None:
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    held = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())
    for folder in (STATIC, STATIC.parent / "templates"):
        for path in folder.iterdir():
            assert f"twogate/web/{folder.name}/{path.name}" in held
    assert any(name.endswith("licenses/src/twogate/web/static/THIRD-PARTY.txt") for name in held)
