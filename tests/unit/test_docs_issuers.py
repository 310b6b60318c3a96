"""The guides for identity providers: each configuration loads, and each sample token is read as its table says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gatelab import accessors
from harness.issuer import PrivateKey, new_key, sign
from twogate.config import Settings, load_settings
from twogate.config.issuers import trusted_issuer
from twogate.config.policy import configured_agents
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import VerificationKey, parse_jwks
from twogate.core.principal import Principal, UserId
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import BearerToken
from twogate.flows.gateway.issuers import FixedKeys, Issuers
from twogate.flows.registry import RegistryView

GUIDES = sorted((Path(__file__).parents[2] / "docs" / "howto" / "issuers").glob("*.md"))
RESOURCE = "https://mcp.example.com/mcp/files"

# What the guides leave out, because it has nothing to do with issuers.
REST = """\
public_url: https://mcp.example.com
listen: "unix:/run/twogate/twogate.sock"
store: sqlite:///./twogate.db
servers: {files: {url: "https://files.internal.example.com/mcp"}}
tools: {files.read_file: {class: read}, files.search: {class: search}}
tasks: {report: {tools: [files.read_file]}}
tenants: {acme: {servers: [files]}}
"""

_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"\| (?P<name>[a-z' ]+) \| (?P<value>.*) \|")
_KEYS: dict[str, PrivateKey] = {}


class Sample(NamedTuple):
    """A token of a guide, and what its table says."""

    header: dict[str, Any]
    claims: dict[str, Any]
    says: dict[str, list[str]]


def configuration(guide: Path, directory: Path) -> Settings:
    (block,) = _YAML.findall(guide.read_text())
    path = directory / "twogate.yaml"
    path.write_text(REST + block)
    return load_settings(path)


def samples(guide: Path) -> list[Sample]:
    """Each JSON block with the rows of the table after it."""
    found = []
    for text in guide.read_text().split("```json\n")[1:]:
        block, after = text.split("\n```\n", 1)
        token = json.loads(block)
        table = after.split("| Twogate reads | |\n|---|---|\n", 1)[1].split("\n\n", 1)[0]
        rows = [_ROW.fullmatch(line) for line in table.splitlines()]
        says = {
            row["name"]: [] if row["value"] == "none" else re.findall(r"`([^`]+)`", row["value"].replace("\\|", "|"))
            for row in rows
            if row is not None
        }
        found.append(Sample(token["header"], token["claims"], says))
    return found


def key_for(algorithm: str) -> PrivateKey:
    if algorithm not in _KEYS:
        _KEYS[algorithm] = new_key(algorithm)
    return _KEYS[algorithm]


def verification_keys(sample: Sample) -> tuple[VerificationKey, ...]:
    jwk = key_for(sample.header["alg"]).as_dict(private=False)
    return parse_jwks(json.dumps({"keys": [{**jwk, "kid": sample.header["kid"]}]}).encode())


async def read(settings: Settings, sample: Sample, **changes: Any) -> Principal:
    trusted = {issuer.issuer: trusted_issuer(issuer, settings.public_url) for issuer in settings.issuers}
    keys = FixedKeys(verification_keys(sample))
    gate = Authenticator(Issuers(trusted, dict.fromkeys(trusted, keys)), accessors())
    agents, bindings = configured_agents(settings)
    algorithm = sample.header["alg"]
    token = sign(sample.header, {**sample.claims, **changes}, key_for(algorithm), algorithm)
    return await gate.authenticate(
        BearerToken(token), RESOURCE, RegistryView(1, agents, bindings), sample.claims["iat"] + 1
    )


EVERY = [(guide, number) for guide in GUIDES for number in range(len(samples(guide)))]
NAMES = [f"{guide.stem}-{number}" for guide, number in EVERY]


def test_there_is_a_guide_for_each_of_the_five_and_each_shows_tokens_that_pass_and_one_that_does_not() -> None:
    assert {guide.stem for guide in GUIDES} == {"auth0", "entra-id", "google", "keycloak", "okta"}
    for guide in GUIDES:
        found = samples(guide)
        assert len(found) == guide.read_text().count("```json")
        assert len([sample for sample in found if "refused" in sample.says]) == 1
        assert [sample for sample in found if "agent" in sample.says]


@pytest.mark.parametrize(("guide", "number"), EVERY, ids=NAMES)
async def test_a_sample_token_is_read_as_its_table_says(tmp_path: Path, guide: Path, number: int) -> None:
    settings, sample = configuration(guide, tmp_path), samples(guide)[number]
    if "refused" in sample.says:
        with pytest.raises(GateError) as refusal:
            await read(settings, sample)
        assert [refusal.value.code.value] == sample.says["refused"]
        return
    principal = await read(settings, sample)
    assert sample.says == {
        "agent": [str(principal.agent.id)],
        "user": [] if principal.user is None else [principal.user.subject],
        "user's roles": list(principal.user_roles),
        "groups": list(principal.groups),
        "scopes": [scope for scope in sample.says["scopes"] if scope in principal.scopes],
    }
    assert principal.scopes == set(sample.says["scopes"])
    assert principal.tenant == "acme"
    assert principal.user in (None, UserId(sample.claims["iss"], *sample.says["user"] or ("",)))


@pytest.mark.parametrize(("guide", "number"), EVERY, ids=NAMES)
async def test_a_sample_token_for_something_else_is_refused(tmp_path: Path, guide: Path, number: int) -> None:
    settings, sample = configuration(guide, tmp_path), samples(guide)[number]
    if "refused" in sample.says:
        return
    for changes, code in (
        ({"aud": "https://mcp.example.com/mcp/notes"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"aud": ["api://default", "account"]}, ErrorCode.AUDIENCE_MISMATCH),
        ({"iss": f"{sample.claims['iss']}x"}, ErrorCode.ISSUER_UNKNOWN),
        ({"exp": sample.claims["iat"] + 86_400}, ErrorCode.TOKEN_LIFETIME_EXCESSIVE),
    ):
        with pytest.raises(GateError) as refusal:
            await read(settings, sample, **changes)
        assert refusal.value.code is code


async def test_googles_opaque_access_tokens_are_no_tokens_here(tmp_path: Path) -> None:
    (guide,) = (guide for guide in GUIDES if guide.stem == "google")
    settings = configuration(guide, tmp_path)
    trusted = {issuer.issuer: trusted_issuer(issuer, settings.public_url) for issuer in settings.issuers}
    gate = Authenticator(Issuers(trusted, dict.fromkeys(trusted, FixedKeys(()))), accessors())
    with pytest.raises(GateError) as refusal:
        await gate.authenticate(BearerToken("ya29.a0AfH6SMBx-example"), RESOURCE, RegistryView(1, {}, {}), 1)
    assert refusal.value.code is ErrorCode.TOKEN_MALFORMED
