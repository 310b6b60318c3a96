"""The settings of clients, metadata documents and registration: what is valid, and what is said of the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from tokenlab import public_jwks
from twogate.config import ConfigError
from twogate.config.client_records import allowed_documents, configured_clients
from twogate.config.file import parse_settings
from twogate.config.settings import Settings
from twogate.core.oauth.cimd import parse_client_id_url
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import AgentId
from twogate.flows.authserver.cimd import Owner
from twogate.flows.authserver.clients import ClientAuth, ClientKind, ClientSource

BASE = """\
public_url: https://mcp.example.com
listen: 127.0.0.1:8080
tls: {certificate: server.pem, key: server.key}
store: sqlite:///./twogate.db
servers: {git: {url: http://git.internal/mcp}}
tools: {git.log: {class: read}}
tasks: {report: {tools: [read]}}
tenants: {acme: {servers: [git]}, globex: {}}
agents:
  acme/public-client: {role: reader, tasks: [report]}
  acme/host: {role: reader, tasks: [report], bindings: [{issuer: embedded, client_id: host-agent}]}
  acme/bot:
    role: reader
    tasks: [report]
    bindings:
      - {issuer: embedded, client_id: bot}
      - {issuer: embedded, client_id: "https://bot.example.com/client.json"}
"""
SECRET = "s" * 43
LISTS = "agents: [acme/bot], tools: [write, git.log]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "server.pem").touch()
    (tmp_path / "server.key").touch(0o600)
    (tmp_path / "keys.json").write_text(public_jwks(ec.generate_private_key(ec.SECP256R1())))
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "digest").write_text(hashlib.sha256(SECRET.encode()).hexdigest() + "\n")
    return tmp_path


def settings(folder: Path, more: str) -> Settings:
    return parse_settings(BASE + more, folder / "twogate.yaml")


def problems(folder: Path, more: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(folder, more)
    return str(caught.value)


def client(text: str) -> str:
    return f"clients: {{x: {{tenant: acme, {text}}}}}"


def test_a_public_client_of_the_configuration(folder: Path) -> None:
    found = configured_clients(
        settings(folder, client('kind: public, auth: none, name: My App, redirect_uris: ["https://a.example/cb"]'))
    )["x"]
    assert (found.kind, found.auth, found.agent) == (
        ClientKind.PUBLIC,
        ClientAuth.NONE,
        AgentId("acme", "public-client"),
    )
    assert found.grants == {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN}
    assert (found.label, found.source, found.expires_at) == ("My App", ClientSource.CONFIGURED, None)


@pytest.mark.parametrize("setting", ["secret_file: secret", "secret_digest_file: digest"])
def test_a_secret_is_kept_as_its_digest(folder: Path, setting: str) -> None:
    made = settings(folder, client(f"kind: authorizer, {LISTS}, auth: client_secret, {setting}"))
    found = configured_clients(made)["x"]
    assert (found.agents, found.tools) == (frozenset({AgentId("acme", "bot")}), frozenset({"write", "git.log"}))
    assert [item.digest for item in found.secret_digests] == [hashlib.sha256(SECRET.encode()).hexdigest()]
    assert found.agent is None
    assert SECRET not in repr(made)


def test_keys_come_from_a_file_or_an_address(folder: Path) -> None:
    text = f"kind: authorizer, {LISTS}, auth: private_key_jwt"
    by_file = configured_clients(settings(folder, client(f"{text}, jwks_file: keys.json")))["x"]
    assert json.loads(by_file.jwks or "") == json.loads((folder / "keys.json").read_text())
    by_uri = configured_clients(settings(folder, client(f'{text}, jwks_uri: "https://k.internal/jwks"')))["x"]
    assert (by_uri.jwks, by_uri.jwks_uri) == (None, "https://k.internal/jwks")


def test_an_agents_client_is_bound_to_it(folder: Path) -> None:
    more = "clients: {bot: {tenant: acme, kind: agent, agent: acme/bot, auth: private_key_jwt, jwks_file: keys.json}}"
    found = configured_clients(settings(folder, more))["bot"]
    assert (found.kind, found.agent) == (ClientKind.AGENT, AgentId("acme", "bot"))


def test_a_host_may_run_an_agent(folder: Path) -> None:
    text = (
        'kind: host, agent: acme/host, auth: none, redirect_uris: ["http://localhost/cb"], grants: [authorization_code]'
    )
    assert configured_clients(settings(folder, client(text)))["x"].agent == AgentId("acme", "host")


def test_an_agent_that_a_host_runs_needs_no_other_credential(folder: Path) -> None:
    alone = BASE.replace(", bindings: [{issuer: embedded, client_id: host-agent}]", "")
    text = client('kind: host, agent: acme/host, auth: none, redirect_uris: ["http://localhost/cb"]')
    found = configured_clients(parse_settings(alone + text, folder / "twogate.yaml"))["x"]
    assert (found.kind, found.agent) == (ClientKind.HOST, AgentId("acme", "host"))
    with pytest.raises(ConfigError, match=r"agents.acme/host.bindings: is missing: say which credential"):
        parse_settings(alone, folder / "twogate.yaml")
    bound = BASE.replace(
        "acme/public-client: {role: reader, tasks: [report]}",
        "acme/public-client: {role: reader, tasks: [report], bindings: [{issuer: embedded, client_id: y}]}",
    )
    with pytest.raises(ConfigError, match="do not belong to public-client"):
        parse_settings(bound, folder / "twogate.yaml")


PUBLIC = 'kind: public, auth: none, redirect_uris: ["https://a.example/cb"]'
KEYS = "auth: private_key_jwt, jwks_file: keys.json"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("kind: public, auth: none", "redirect URIs and the grant authorization_code go together"),
        ("kind: robot, auth: none", "kind: must be one of"),
        (f"{PUBLIC}, grants: [client_credentials]", "may have these grants"),
        (f"{PUBLIC}, grants: [implicit]", "must be one of: authorization_code"),
        (f"{PUBLIC}, grants: [authorization_code, token_exchange]", "may have these grants"),
        (f"{PUBLIC}, grants: [refresh_token]", "go together"),
        (f"{PUBLIC}, grants: []", "must not be empty"),
        (f"{PUBLIC}, agent: acme/bot", "has no `agent`"),
        (f"{PUBLIC}, secret: x", "is not a setting"),
        (f"{PUBLIC}, jwks_file: keys.json", "goes with exactly one of `jwks_file`"),
        (f"{PUBLIC}, secret_file: secret", "goes with exactly one of `secret_file`"),
        ('kind: public, auth: none, redirect_uris: ["http://a.example/"]', "http is only for"),
        ('kind: public, auth: none, redirect_uris: ["javascript:alert(1)"]', "redirect URI"),
        ('kind: public, auth: none, redirect_uris: ["https://a.example/", "https://a.example/"]', "twice"),
        (f'{PUBLIC}, name: "a\\u202eb"', "printable"),
        (f"kind: agent, {KEYS}", "says whose it is"),
        (f"kind: agent, agent: globex/bot, {KEYS}", "another tenant"),
        (f"kind: agent, agent: acme/nobody, {KEYS}", "unknown agent"),
        (f"kind: agent, agent: acme/public-client, {KEYS}", "leave `agent` out"),
        (f"kind: agent, agent: acme/bot, {KEYS}", "add {issuer: embedded, client_id: x} to its bindings"),
        ("kind: agent, agent: acme/bot, auth: none", "authenticates"),
        (f"kind: authorizer, {LISTS}, auth: none", "authenticates"),
        (f"kind: authorizer, {KEYS}", "lists the `agents` and `tools`"),
        (f"kind: authorizer, {KEYS}, tools: [write]", "lists the `agents` and `tools`"),
        (f"kind: authorizer, {KEYS}, agents: [globex/bot], tools: [write]", "another tenant"),
        (f"kind: authorizer, {KEYS}, agents: [acme/nobody], tools: [write]", "unknown agent"),
        (f"kind: authorizer, {KEYS}, agents: [acme/bot], tools: [git.push]", "neither a class nor an entry"),
        (f"{PUBLIC}, tools: [write]", "neither `agents` nor `tools`"),
        (f"kind: authorizer, {LISTS}, auth: private_key_jwt", "exactly one of `jwks_file`"),
        (f'kind: authorizer, {LISTS}, {KEYS}, jwks_uri: "https://k.example/"', "exactly one of `jwks_file`"),
        (f"kind: authorizer, {LISTS}, auth: client_secret", "exactly one of `secret_file`"),
        (f"kind: authorizer, {LISTS}, auth: private_key_jwt, jwks_file: missing.json", "cannot be read"),
        (f"kind: authorizer, {LISTS}, auth: private_key_jwt, jwks_file: secret", "is not a JWK set"),
        (f"kind: authorizer, {LISTS}, auth: client_secret, secret_digest_file: secret", "SHA-256"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, text: str, hint: str) -> None:
    assert hint in problems(folder, client(text))


def test_a_private_key_in_the_file_of_keys_is_an_error(folder: Path) -> None:
    private = {"keys": [ECKey.generate_key("P-256").as_dict(private=True)]}
    (folder / "keys.json").write_text(json.dumps(private))
    assert "private or symmetric key" in problems(folder, client(f"kind: authorizer, {LISTS}, {KEYS}"))


@pytest.mark.parametrize("secret", ["short", "a" * 31, "a" * 513, "with blanks " * 4, "ä" * 40, ""])
def test_a_secret_that_could_be_guessed_is_an_error_and_not_shown(folder: Path, secret: str) -> None:
    (folder / "secret").write_text(secret)
    told = problems(folder, client(f"kind: authorizer, {LISTS}, auth: client_secret, secret_file: secret"))
    assert "random secret of 32 to 512" in told
    assert not secret or secret not in told


def test_a_secret_that_others_can_read_is_an_error(folder: Path) -> None:
    (folder / "secret").chmod(0o644)
    written = client(f"kind: authorizer, {LISTS}, auth: client_secret, secret_file: secret")
    assert "chmod 600" in problems(folder, written)


@pytest.mark.parametrize("name", ["https://app.example/c.json", '"a b"', '"ä"', "_x"])
def test_a_clients_id_is_no_url(folder: Path, name: str) -> None:
    assert "a client's id is" in problems(folder, f"clients: {{{name}: {{tenant: acme, {PUBLIC}}}}}")


def test_a_client_of_a_tenant_without_a_public_client_agent_is_an_error(folder: Path) -> None:
    for more in (
        f"clients: {{x: {{tenant: globex, {PUBLIC}}}}}",
        "cimd: [{domain: app.example.com, tenant: globex}]",
        "registration: {mode: open, tenant: globex}",
    ):
        assert "globex/public-client" in problems(folder, more)


def test_a_client_that_an_agent_is_bound_to_has_its_kind(folder: Path) -> None:
    told = problems(folder, f"clients: {{bot: {{tenant: acme, {PUBLIC}}}}}")
    assert "is bound to the agent acme/bot" in told


def test_documents_belong_to_whom_the_entry_says(folder: Path) -> None:
    more = """\
cimd:
  - {client_id: "https://bot.example.com/client.json", tenant: acme, agent: acme/bot}
  - {client_id: "https://app.example.com/client.json", tenant: acme}
  - {domain: "*.example.org", tenant: acme}
  - {domain: "apps.example.org:8443", tenant: acme}
"""
    allowed = allowed_documents(settings(folder, more))

    def owner(url: str) -> Owner | None:
        found = allowed.owner(parse_client_id_url(url))
        return None if found is None else found[0]

    assert owner("https://bot.example.com/client.json") == Owner("acme", AgentId("acme", "bot"))
    assert owner("https://app.example.com/client.json") == Owner("acme")
    assert owner("https://app.example.com/other.json") is None
    assert owner("https://a.b.example.org/c") == Owner("acme")
    assert owner("https://example.org/c") is None
    assert owner("https://apps.example.org:8443/c") == Owner("acme")
    assert owner("https://b.example.org:8443/c") is None


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ("tenant: acme", "exactly one of"),
        ('tenant: acme, domain: a.example, client_id: "https://a.example/c"', "exactly one of"),
        ("tenant: nowhere, domain: a.example", "unknown tenant"),
        ("tenant: acme, domain: a.example, agent: acme/bot", "goes with a whole `client_id`"),
        ('tenant: acme, client_id: "http://a.example/c"', "begins with https"),
        ('tenant: acme, client_id: "https://a.example/"', "a path"),
        ('tenant: acme, client_id: "https://a.example/c?x"', "no query"),
        ('tenant: acme, client_id: "https://a.example/c", agent: acme/bot', "is not bound to this client"),
        ('tenant: acme, client_id: "https://bot.example.com/client.json"', "needs `agent: acme/bot`"),
        ('tenant: acme, domain: "*"', "must be a host"),
        ('tenant: acme, domain: "*.com"', "two labels"),
        ('tenant: acme, domain: "a.*.example"', "must be a host"),
        ('tenant: acme, domain: "https://a.example"', "must be"),
        ('tenant: acme, domain: "a.example/x"', "domain name"),
        ("tenant: acme, domain: A.example", "lower case"),
        ("tenant: acme, domain: 127.0.0.1", "domain name"),
        ("tenant: acme, domain: localhost", "two labels"),
        ('tenant: acme, domain: "a.example:443"', "443"),
        ('tenant: acme, domain: "a.example:99999"', "65535"),
    ],
)
def test_an_allowlist_entry_that_could_mean_more_is_refused(folder: Path, entry: str, hint: str) -> None:
    assert hint in problems(folder, f"cimd: [{{{entry}}}]")


def test_one_document_belongs_to_one_tenant(folder: Path) -> None:
    more = "cimd: [{domain: a.example, tenant: acme}, {domain: a.example, tenant: acme}]"
    assert "listed twice" in problems(folder, more)


def test_an_empty_allowlist_is_an_error(folder: Path) -> None:
    assert "must not be empty" in problems(folder, "cimd: []")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{tenant: acme}", "mode"),
        ("{mode: open}", "tenant"),
        ("{mode: anybody, tenant: acme}", "must be one of"),
        ("{mode: open, tenant: nowhere}", "unknown tenant"),
        ("{mode: open, tenant: acme, unused: 1h}", "at least"),
        ("{mode: open, tenant: acme, clients: 0}", "at least"),
        ("{mode: open, tenant: acme, agent: acme/bot}", "is not a setting"),
    ],
)
def test_registration_says_how_and_for_whom(folder: Path, text: str, hint: str) -> None:
    assert hint in problems(folder, f"registration: {text}")


def test_all_of_it_needs_the_embedded_server(folder: Path) -> None:
    text = (
        BASE.replace("agents:", "issuers: []\nagents:")
        + "embedded: {enabled: false}\nregistration: {mode: open, tenant: acme}"
    )
    with pytest.raises(ConfigError, match="is of no use: the embedded server is disabled"):
        parse_settings(text, folder / "twogate.yaml")


def test_it_is_all_off_by_default(folder: Path) -> None:
    made = settings(folder, "")
    assert (dict(made.clients), made.cimd, made.registration) == ({}, (), None)
