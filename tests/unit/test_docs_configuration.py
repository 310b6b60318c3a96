"""The configuration reference names every setting and no other, and every configuration in the documents is valid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from twogate.config.file import parse_settings
from twogate.config.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "configuration.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_ROW = re.compile(r"\| `([^`]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|")
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


SAME = {"tenants.NAME.tools", "tenants.NAME.roles", "tenants.NAME.tasks"}
"""What is written as the section of that name is, and described there."""


ONE_OR_SEVERAL = {"tools.NAME.approval"}
"""What is one mapping or a list of them, and described as one."""


def settings(model: type[BaseModel] = Settings, place: str = "") -> Iterator[tuple[str, bool]]:
    """Every key, as the page writes it, and whether it is required."""
    for name, field in model.model_fields.items():
        key = f"{place}{field.alias or name}"
        yield key, field.is_required()
        if key not in SAME:
            yield from _inside(field.annotation, key)


def _inside(annotation: object, key: str) -> Iterator[tuple[str, bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from settings(annotation, f"{key}.")
        return
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key += ".NAME"
    elif origin is tuple:
        key += "" if key in ONE_OR_SEVERAL else "[]"
    for part in get_args(annotation):
        yield from _inside(part, key)


def rows() -> dict[str, str]:
    """The default that each row states, by its key."""
    found = [match.groups() for line in PAGE.read_text().splitlines() if (match := _ROW.fullmatch(line))]
    return {key: default for key, default in found if re.match(r"[a-z_]+", key)}


def configurations() -> Iterator[tuple[str, str]]:
    """Every complete configuration in the documents, with the page it stands on."""
    for document in DOCUMENTS:
        for block in _YAML.findall(document.read_text()):
            if "public_url:" in block:
                yield str(document.relative_to(ROOT)), block


def test_the_page_names_every_setting_and_no_other() -> None:
    shipped_roles = {"reader", "analyst", "executor", "admin"}
    assert rows().keys() - shipped_roles == {key for key, _ in settings()}


def test_the_walk_finds_settings_at_every_depth() -> None:
    found = {key for key, _ in settings()}
    assert {"public_url", "issuers[].claims.agent", "servers.NAME.url", "agents.NAME.bindings[].issuer"} <= found


@pytest.mark.parametrize(("key", "required"), sorted(set(settings())))
def test_a_row_says_whether_the_setting_is_required(key: str, required: bool) -> None:
    assert (rows()[key] == "required") == required


@pytest.mark.parametrize(("page", "text"), list(configurations()))
def test_every_configuration_in_the_documents_is_valid(page: str, text: str, tmp_path: Path) -> None:
    del page
    for name in ("server.pem", "server.key", "internal-ca.pem", "sso.secret", "rules.cedar"):
        (tmp_path / name).touch(0o600)
    (tmp_path / "notes").mkdir()
    parse_settings(text, tmp_path / "twogate.yaml")


def test_the_readme_and_the_reference_show_a_configuration() -> None:
    assert {"README.md", "docs/reference/configuration.md"} <= {page for page, _ in configurations()}
