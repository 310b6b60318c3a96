"""External issuers in the configuration: what a mistake says, and what gate one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from twogate.config import ConfigError, Settings, load_settings
from twogate.config.issuers import trusted_issuer
from twogate.core.jose.keys import Algorithm

BASE = """\
public_url: http://localhost:8400
listen: 127.0.0.1:8400
store: sqlite:///./twogate.db
tenants: {acme: {servers: [files, notes]}}
servers: {files: {url: http://127.0.0.1:9001/mcp}, notes: {url: http://127.0.0.1:9002/mcp}}
tools: {files.look: {class: read}}
tasks: {report: {tools: [files.look]}}
agents:
  acme/robot: {role: reader, tasks: [report], bindings: [{issuer: "https://login.example.com", client_id: robot}]}
issuers:
  - issuer: https://login.example.com
    tenants: [acme]
    claims: {agent: /azp, role: /realm_access/roles}
    roles: [reader, analyst]
"""


def load(directory: Path, issuer: str) -> Settings:
    path = directory / "twogate.yaml"
    path.write_text(BASE + "".join(f"    {line}\n" for line in issuer.splitlines()))
    return load_settings(path)


def test_gate_one_is_told_what_the_issuer_may_say(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "algorithms: [RS256, PS256, ES256, EdDSA, Ed25519]\n"
        "types: [application/AT+JWT, JWT, absent]\n"
        "audiences: {/mcp/files: 6e74172b, /sessions: 7f85283c}\n"
        "max_lifetime: 100m",
    )
    trusted = trusted_issuer(settings.issuers[0], settings.public_url)
    assert trusted.algorithms == set(Algorithm)
    assert trusted.types == {"at+jwt", "jwt", None}
    assert trusted.audiences == {
        "http://localhost:8400/mcp/files": "6e74172b",
        "http://localhost:8400/sessions": "7f85283c",
    }
    assert trusted.roles == {"reader", "analyst"}
    assert trusted.pointers.role == "/realm_access/roles"
    assert trusted.pointers.user is None
    assert trusted.max_lifetime == 6000


def test_what_is_left_out_is_the_stricter(tmp_path: Path) -> None:
    settings = load(tmp_path, "algorithms: [ES256]")
    trusted = trusted_issuer(settings.issuers[0], settings.public_url)
    assert trusted.types == {"at+jwt"}
    assert trusted.audiences == {}
    assert trusted.max_lifetime == 3600


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        ("algorithms: [HS256]", "algorithms[0]"),
        ("algorithms: [none]", "algorithms[0]"),
        ("algorithms: []", "algorithms"),
        ("types: [op+jwt]", "op+jwt marks tokens that are no access tokens"),
        ("types: []", "types"),
        ("audiences: {/mcp/git: x}", "unknown server 'git'"),
        ("audiences: {files: x}", "must be the path of a resource"),
        ("audiences: {/mcp/files/: x}", "must be the path of a resource"),
        ("audiences: {/mcp/files: x, /mcp/notes: x}", "gives two resources one name"),
        ("audiences: {/mcp/files: 'http://localhost:8400/mcp/notes'}", "must be another name"),
        ("audiences: {/mcp/files: robot}", "'robot' is an agent"),
        ("audiences: {/mcp/files: ''}", "audiences"),
        ("audiences: {/mcp/files: 5}", "audiences"),
        ("max_lifetime: 2d", "max_lifetime"),
        ("max_lifetime: 3600", "must be a duration with a unit"),
    ],
)
def test_a_mistake_is_an_error_that_says_where(tmp_path: Path, issuer: str, expected: str) -> None:
    if "algorithms" not in issuer:
        issuer += "\nalgorithms: [ES256]"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, issuer)
    found = [f"{problem.key}: {problem.message}" for problem in caught.value.problems]
    assert len(found) == 1, found
    assert expected in found[0]
    assert found[0].startswith("issuers[0]")
