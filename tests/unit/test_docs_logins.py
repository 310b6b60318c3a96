"""The guide to logging in with a provider: every provider's settings are valid beside the page's own configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twogate.config.file import parse_settings
from twogate.config.upstream_providers import provider_rules

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "log-in-with-your-provider.md"
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)

SECTIONS = dict(_SECTION.findall(GUIDE.read_text()))
PROVIDERS = ("Keycloak", "Okta", "Auth0", "Entra ID", "Google")


def test_there_is_a_section_for_each_of_the_five() -> None:
    assert [*SECTIONS] == ["In Twogate", *PROVIDERS]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_providers_settings_are_valid(provider: str, tmp_path: Path) -> None:
    (whole,), (entry,) = _YAML.findall(SECTIONS["In Twogate"]), _YAML.findall(SECTIONS[provider])
    before, after = whole.split("logins:\n")[0], whole[whole.index("groups:\n") :]
    for name in ("server.pem", "server.key", *re.findall(r"client_secret_file: (\S+)", entry)):
        (tmp_path / name).touch(0o600)
    settings = parse_settings(f"{before}logins:\n{entry}\n{after}", tmp_path / "twogate.yaml")
    rules = provider_rules(settings.logins[0], settings)
    assert rules.redirect_uri == f"https://mcp.example.com/login/callback/{rules.name}"
    assert rules.allowed_groups
