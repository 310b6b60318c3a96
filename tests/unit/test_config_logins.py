"""Providers at which people log in: what a mistake says, and what the flows are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from twogate.config import ConfigError, Settings, load_settings
from twogate.config.upstream_providers import provider_rules
from twogate.core.jose.keys import Algorithm

BASE = """\
public_url: http://localhost:8400
listen: 127.0.0.1:8400
store: sqlite:///./twogate.db
tenants: {acme: {servers: [files]}, globex: {servers: [files]}}
servers: {files: {url: http://127.0.0.1:9001/mcp}}
tools: {files.look: {class: read}}
groups: {analysts: {role: reader}}
logins:
"""
ACME = """\
  - name: acme
    label: Acme account
    issuer: https://login.example.com/realms/acme
    client_id: twogate
    client_secret_file: acme.secret
    tenants: [acme]
    allow: {groups: [staff]}
    claims: {groups: /groups}
    algorithms: [RS256]
"""


def load(directory: Path, *providers: str, more: str = "") -> Settings:
    path = directory / "twogate.yaml"
    path.write_text(BASE + "".join(providers) + more)
    for name in ("acme.secret", "login.pem", "ca.pem"):
        (directory / name).touch(0o600)
    return load_settings(path)


def problems(directory: Path, *providers: str, more: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        load(directory, *providers, more=more)
    return str(refused.value)


def test_the_flows_are_told_what_the_operator_lets_a_provider_do(tmp_path: Path) -> None:
    settings = load(tmp_path, ACME)
    rules = provider_rules(settings.logins[0], settings)
    assert (rules.name, rules.label, rules.issuer, rules.client_id) == (
        "acme", "Acme account", "https://login.example.com/realms/acme", "twogate"
    )  # fmt: skip
    assert rules.tenants == {"acme"}
    assert rules.id_token.algorithms == {Algorithm.RS256}
    assert rules.allowed_groups == frozenset({"staff"})
    assert rules.known_groups == {"analysts"}
    assert rules.redirect_uri == "http://localhost:8400/login/callback/acme"
    assert rules.scopes == ("openid", "profile")
    assert (rules.name_claim, rules.display_name_claim, rules.groups_claim) == (
        "/preferred_username", "/name", "/groups"
    )  # fmt: skip
    assert settings.logins[0].client_secret_file == tmp_path / "acme.secret"


def test_anyone_is_said_outright(tmp_path: Path) -> None:
    settings = load(tmp_path, ACME.replace("{groups: [staff]}", "{anyone: true}"))
    assert provider_rules(settings.logins[0], settings).allowed_groups is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    allow: {groups: [staff]}\n", "", "allow: is missing"),
        ("{groups: [staff]}", "{}", "needs exactly one of `groups: […]` and `anyone: true`"),
        ("{groups: [staff]}", "{groups: []}", "logins[0].allow"),
        ("{groups: [staff]}", "{anyone: false}", "logins[0].allow.anyone"),
        ("{groups: [staff]}", "{anyone: true, groups: [staff]}", "needs exactly one of"),
        ("    claims: {groups: /groups}\n", "", "allow.groups needs claims.groups"),
        ("[acme]\n", "[]\n", "logins[0].tenants"),
        ("[acme]\n", "[acmee]\n", "unknown tenant 'acmee'"),
        ("[RS256]", "[]", "logins[0].algorithms"),
        ("[RS256]", "[HS256]", "logins[0].algorithms[0]"),
        ("[RS256]", "[none]", "logins[0].algorithms[0]"),
        ("https://login.example.com/realms/acme", "http://login.example.com", "must be https"),
        ("https://login.example.com/realms/acme", "http://localhost:8400", "log in here in order to log in here"),
        ("    client_secret_file: acme.secret\n", "", "needs exactly one of `client_secret_file` and"),
        ("acme.secret\n", "acme.secret\n    private_key_file: login.pem\n", "needs exactly one of"),
        ("acme.secret\n", "missing.secret\n", "missing.secret is not a file"),
        ("acme.secret\n", "acme.secret\n    private_key_id: k1\n", "which is missing"),
        ("acme.secret\n", "acme.secret\n    scopes: [profile]\n", "must have openid"),
        ("acme.secret\n", "acme.secret\n    client_secret: hunter2\n", "not a setting of this version"),
        ("acme.secret\n", "acme.secret\n    parameters: {redirect_uri: x}\n", "is set by Twogate itself"),
        ("acme.secret\n", "acme.secret\n    parameters: {request: x}\n", "is set by Twogate itself"),
        ("acme.secret\n", "acme.secret\n    parameters: {State: x}\n", "a parameter is 1 to 64"),
        ("acme.secret\n", "acme.secret\n    claims: {name: sub}\n", "claims"),
        ("name: acme\n", "name: acme/x\n", "a name is 1 to 63"),
        ("Acme account", '"a\\nb"', "1 to 64 characters"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert ACME.count(old) == 1
    assert expected in problems(tmp_path, ACME.replace(old, new))


def test_two_providers_are_told_apart(tmp_path: Path) -> None:
    other = ACME.replace("name: acme\n", "name: globex\n").replace("tenants: [acme]", "tenants: [globex]")
    assert len(load(tmp_path, ACME, other).logins) == 2
    assert "is another provider already" in problems(tmp_path, ACME, other.replace("name: globex", "name: acme"))
    both = other.replace("tenants: [globex]", "tenants: [globex, acme]")
    assert "is listed for 'acme' already" in problems(tmp_path, ACME, both)


def test_a_secret_that_others_can_read_is_told_of(tmp_path: Path) -> None:
    load(tmp_path, ACME)
    (tmp_path / "acme.secret").chmod(0o644)
    assert "can be used by others" in problems(tmp_path, ACME)


def test_providers_without_the_embedded_server_are_of_no_use(tmp_path: Path) -> None:
    issuers = (
        "embedded: {enabled: false}\n"
        "issuers: [{issuer: https://as.example, algorithms: [ES256], tenants: [acme], claims: {agent: /azp}}]\n"
    )
    assert "are of no use" in problems(tmp_path, ACME, more=issuers)
