import re
from collections.abc import Callable
from pathlib import Path

import pytest

from twogate.config import ConfigError, HttpServer, Settings, StdioServer, TcpAddress, load_settings
from twogate.config.file import MAX_BYTES
from twogate.config.settings import SHIPPED_ROLES
from twogate.core.access import ToolClass

CONFIG = """\
public_url: https://mcp.example.com
listen: 0.0.0.0:8443
tls: {certificate: server.pem, key: server.key}
store: sqlite:///./state/twogate.db
issuers:
  - issuer: https://login.example.com
    algorithms: [RS256]
    tenants: [acme]
    roles: [reader, analyst]
    claims: {tenant: /tenant, role: /mcp_role, agent: /azp, groups: /groups}
    max_lifetime: 1h
servers:
  files: {url: http://127.0.0.1:9001/mcp}
  git:   {command: [mcp-server-git, --repository, /srv/repo]}
tools:
  git.git_log:     {class: read}
  git.git_commit:  {class: write}
  files.read_file: {class: read}
roles:
  reader:   {allow: [read, search]}
  analyst:  {allow: [read, search, fetch]}
  executor: {allow: [read, search, fetch], token: [write, send, execute]}
tasks:
  quarterly-report: {tools: [git.git_log, files.read_file]}
agents:
  acme/reporter: {role: analyst, tasks: [quarterly-report], default_task: quarterly-report,
                  bindings: [{issuer: embedded, client_id: reporter}]}
groups: {finance-analysts: {role: analyst, scopes: [reports]}}
scopes: {reports: [read, search]}
tenants:
  acme: {servers: [files, git]}
"""

Load = Callable[[str], Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    (tmp_path / "server.pem").write_text("certificate")
    (tmp_path / "server.key").write_text("key")
    (tmp_path / "server.key").chmod(0o600)

    def write_and_load(text: str) -> Settings:
        path = tmp_path / "twogate.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        return load_settings(path)

    return write_and_load


@pytest.fixture
def problems(load: Load) -> Callable[[str], list[str]]:
    def refuse(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text)
        return [f"{problem.line} {problem.key}: {problem.message}" for problem in caught.value.problems]

    return refuse


Problems = Callable[[str], list[str]]


def changed(old: str, new: str) -> str:
    assert old in CONFIG, old
    return CONFIG.replace(old, new)


def test_the_design_s_example_is_accepted(load: Load, tmp_path: Path) -> None:
    settings = load(CONFIG)
    assert settings.public_url == "https://mcp.example.com"
    assert settings.listen == TcpAddress("0.0.0.0", 8443)
    assert settings.tls is not None
    assert settings.tls.key == tmp_path / "server.key"
    assert settings.store_path == tmp_path / "state" / "twogate.db"
    assert settings.state_directory == tmp_path / "state"
    assert settings.issuers[0].max_lifetime == 3600
    assert settings.issuers[0].types == ("at+jwt",)
    assert settings.issuers[0].claims.scope == "/scope"
    assert isinstance(settings.servers["files"], HttpServer)
    assert isinstance(settings.servers["git"], StdioServer)
    assert settings.tools["git.git_commit"].tool_class is ToolClass.WRITE
    assert settings.agents["acme/reporter"].concurrent_tasks == 1
    assert settings.limits.body == 4 * 1024 * 1024
    assert settings.embedded.enabled
    assert settings.embedded.lifetimes.access_token == 300
    assert not settings.audit.fsync


def test_the_shipped_roles_are_the_matrix_of_the_requirements(load: Load) -> None:
    text = re.sub(r"roles:\n(  .*\n){3}", "", CONFIG)
    roles = load(text).roles
    assert dict(roles) == dict(SHIPPED_ROLES)
    read = {"read", "search"}
    assert set(roles["reader"].allow) == read
    assert set(roles["analyst"].allow) == {*read, "fetch"}
    assert set(roles["executor"].token) == {"write", "send", "execute"}
    assert set(roles["admin"].allow) == {*read, "fetch", "write", "send", "execute"}
    assert set(roles["admin"].token) == {"secrets", "configure"}


def test_the_generation_follows_the_meaning_not_the_text(load: Load) -> None:
    first = load(CONFIG).generation
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert load("# a comment\n" + CONFIG).generation == first
    assert load(changed("https://mcp.example.com", "HTTPS://mcp.example.com:443/")).generation == first
    assert load(CONFIG + "audit: {fsync: false}\n").generation == first
    assert load(CONFIG + "audit: {fsync: true}\n").generation != first
    assert load(changed("allow: [read, search]", "allow: [read]")).generation != first


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # Unknown settings, and those of later versions.
        ("tls: {", "tls: {client_crl: a.pem, ", "3 tls.client_crl: is not a setting"),
        ("issuers:\n", "regions: [eu]\nissuers:\n", "5 regions: is not a setting"),
        ("issuers:\n", "shared: memory\nissuers:\n", "5 shared: must be sql, or rediss://"),
        ("issuers:\n", "enforcement: off\nissuers:\n", "5 enforcement: must be one of 'enforce' or 'observe'"),
        ("issuers:\n", "enforcement: observe\nissuers:\n", "1 observe_until: is missing"),
        ("issuers:\n", "observe_until: 2020-01-01\nissuers:\n", "5 observe_until: has passed"),
        ("issuers:\n", "observe_until: soon\nissuers:\n", "5 observe_until: must be a date"),
        ("issuers:\n", "observe_until: 20261201\nissuers:\n", "5 observe_until: must be a date"),
        ("issuers:\n", "observe_until: 2026-13-01\nissuers:\n", "5 observe_until: is no date"),
        ("class: write}", "class: write, approval: {by: [x]}}", "17 tools.git.git_commit.approval.by[0]: must be"),
        ("/srv/repo]}", "/srv/repo], sandbox: {net: none}}", "14 servers.git.sandbox.net: is not a setting"),
        ("[files, git]}", "[files, git], secret: {}}", "31 tenants.acme.secret: is not a setting of this version (did"),
        ("max_lifetime: 1h", "max_lifetme: 1h", "11 issuers[0].max_lifetme: is not a setting of this version (did you"),
        ("mcp}", "mcp, cwd: /}", "13 servers.files.cwd: is not a setting of this version (known here: url, "),
        ("/azp,", "/azp, name: /n,", "10 issuers[0].claims.name: is not a setting"),
        # Values.
        ("listen: 0.0.0.0:8443", "listen: 8443", "2 listen: must be"),
        ("[RS256]", "[RS256, HS256]", "7 issuers[0].algorithms[1]: must be one of"),
        ("[RS256]", "[none]", "7 issuers[0].algorithms[0]: must be one of"),
        ("[RS256]", "[]", "7 issuers[0].algorithms: must not be empty"),
        ("tenants: [acme]", "tenants: []", "8 issuers[0].tenants: must not be empty"),
        ("tenants: [acme]", "tenants: [acme, acme]", "8 issuers[0].tenants: names something twice"),
        ("max_lifetime: 1h", "max_lifetime: 2d", "11 issuers[0].max_lifetime: must be at most 86400 seconds"),
        ("max_lifetime: 1h", "max_lifetime: 60", "11 issuers[0].max_lifetime: must be a duration"),
        ("max_lifetime: 1h", "types: [dpop+jwt]", "11 issuers[0].types: dpop+jwt marks tokens"),
        ("max_lifetime: 1h", "types: [application/OP+JWT]", "11 issuers[0].types: application/OP+JWT marks"),
        ("agent: /azp", "agent: azp", "10 issuers[0].claims.agent: must be a JSON pointer"),
        ("agent: /azp, ", "", "10 issuers[0].claims.agent: is missing"),
        ("role: /mcp_role, ", "", "6 issuers[0]: roles are listed but claims.role"),
        ("https://login.example.com", "http://login.example.com", "6 issuers[0].issuer: must be https"),
        ("mcp}", "mcp, command: [x]}", "13 servers.files: needs exactly one of `url`, `command` and"),
        ("{url: http://127.0.0.1:9001/mcp}", "{}", "13 servers.files: needs exactly one of"),
        ("/srv/repo]}", "/srv/repo], env: {DB_PASSWORD: x}}", "14 servers.git.env: DB_PASSWORD looks like a secret"),
        ("/srv/repo]}", "/srv/repo], env: {openai_api_key: x}}", "14 servers.git.env: openai_api_key looks like"),
        ("[mcp-server-git, --repository, /srv/repo]", "[]", "14 servers.git.command: must not be empty"),
        ("[mcp-server-git, --repository, /srv/repo]", "mcp-server-git", "14 servers.git.command: must be a list"),
        ("/srv/repo]}", "/srv/repo], cwd: nowhere}", "14 servers.git.cwd: "),
        ("class: read}", "class: reed}", "16 tools.git.git_log.class: must be one of"),
        ("git.git_log:  ", "gitlog:  ", "16 tools.gitlog: a target is written server.tool"),
        ("git.git_log:  ", "git.resource:f:/../*: ", "16 tools.git.resource:f:/../*: could match nothing"),
        ("git.git_log:  ", "git.resource:*: ", "16 tools.git.resource:*: has a wildcard but does not begin"),
        ("git.git_log:  ", "git.tool:git_log: ", "16 tools.git.tool:git_log: write git.git_log"),
        ("git.git_log:  ", "git.prompt:: ", "16 tools.git.prompt:: a prompt's name is not a string of 1 to 1024"),
        ("allow: [read, search]", "allow: []", "20 roles.reader.allow: must not be empty"),
        ("{allow: [read, search]}", "{deny: [read]}", "20 roles.reader: needs `allow` or `token`"),
        ("allow: [read, search]", "allow: [read], token: [read]", "20 roles.reader: 'read' stands in both"),
        ("tasks: [quarterly-report]", "tasks: []", "26 agents.acme/reporter.tasks: must not be empty"),
        ("client_id: reporter}]", "client_id: 5}]", "27 agents.acme/reporter.bindings[0].client_id: must be text"),
        ("client_id: reporter}]", "subject: r}]", "27 agents.acme/reporter.bindings[0]: the embedded authorization"),
        (", client_id: reporter}]", "}]", "27 agents.acme/reporter.bindings[0]: needs exactly one of"),
        ("[{issuer: embedded, client_id: reporter}]", "[]", "27 agents.acme/reporter.bindings: must not be empty"),
        ("issuer: embedded", "issuer: nonsense", "27 agents.acme/reporter.bindings[0].issuer: must be"),
        ("acme/reporter:", "reporter:", "26 agents.reporter: an agent is written tenant/name"),
        ("{role: analyst, scopes: [reports]}", "{}", "28 groups.finance-analysts: needs `role` or `scopes`"),
        ("{reports: [read, search]}", "{reports: []}", "29 scopes.reports: must not be empty"),
        ("{servers: [files, git]}", "{servers: []}", "31 tenants.acme.servers: must not be empty"),
        ("tenants:\n  acme: {", "allowed_origins: [null]\ntenants:\n  acme: {", "30 allowed_origins[0]: "),
        ("tenants:\n  acme: {", "allowed_origins: []\ntenants:\n  acme: {", "30 allowed_origins: must not be empty"),
        ("tenants:\n  acme: {", "limits: {body: 1GiB}\ntenants:\n  acme: {", "30 limits.body: must be a size"),
        ("tenants:\n  acme: {", "limits: {burst: '5'}\ntenants:\n  acme: {", "30 limits.burst: must be a whole number"),
        ("tenants:\n  acme: {", "audit: {fsync: yes}\ntenants:\n  acme: {", "30 audit.fsync: must be true or false"),
        ("tenants:\n  acme: {", "audit:\ntenants:\n  acme: {", "30 audit: has no value"),
        (
            "tenants:\n  acme: {",
            "embedded: {lifetimes: {access_token: 1h}}\ntenants:\n  acme: {",
            "30 embedded.lifetimes.access_token: must be at most 900 seconds",
        ),
        # Between settings.
        ("role: analyst, tasks", "role: analist, tasks", "26 agents.acme/reporter.role: unknown role 'analist'"),
        ("tasks: [quarterly-report]", "tasks: [x]", "26 agents.acme/reporter.tasks[0]: unknown task 'x'"),
        ("default_task: quarterly-report", "default_task: x", "26 agents.acme/reporter.default_task: 'x' is not among"),
        ("acme/reporter:", "acmee/reporter:", "26 agents.acmee/reporter: unknown tenant 'acmee'"),
        ("issuer: embedded", "issuer: https://x.example", "27 agents.acme/reporter.bindings[0].issuer: unknown issuer"),
        ("issuer: embedded", "issuer: https://mcp.example.com", "27 agents.acme/reporter.bindings[0].issuer: is "),
        ("[git.git_log, files", "[git.git_lg, files", "24 tasks.quarterly-report.tools[0]: 'git.git_lg' is not cl"),
        ("[git.git_log, files", "[gti.x, files", "24 tasks.quarterly-report.tools[0]: unknown server 'gti'"),
        ("[git.git_log, files", "[serch, files", "24 tasks.quarterly-report.tools[0]: 'serch' is neither a class"),
        ("  git.git_commit:", "  gti.git_commit:", "17 tools.gti.git_commit: unknown server 'gti'"),
        ("allow: [read, search]", "allow: [git.x]", "20 roles.reader.allow[0]: 'git.x' is not classified"),
        ("{reports: [read, search]}", "{reports: [git.x]}", "29 scopes.reports[0]: 'git.x' is not classified"),
        ("scopes: [reports]", "scopes: [report]", "28 groups.finance-analysts.scopes[0]: unknown scope 'report'"),
        ("{role: analyst, scopes", "{role: x, scopes", "28 groups.finance-analysts.role: unknown role 'x'"),
        ("servers: [files, git]", "servers: [files, gut]", "31 tenants.acme.servers[1]: unknown server 'gut'"),
        ("roles: [reader, analyst]", "roles: [boss]", "9 issuers[0].roles[0]: unknown role 'boss'"),
        ("tenants: [acme]", "tenants: [x]", "8 issuers[0].tenants[0]: unknown tenant 'x'"),
        ("issuer: https://login", "issuer: https://mcp", "6 issuers[0].issuer: is public_url"),
        ("tenants:\n  acme: {", "embedded: {enabled: false}\ntenants:\n  acme: {", "27 agents.acme/reporter.bi"),
        ("https://mcp.example.com", "http://localhost", "3 tls: contradicts public_url"),
        ("tls: {", "tls: {client_certificate: required, ", "3 tls: client_certificate needs `client_ca`"),
        ("tls: {", "tls: {client_ca: a.pem, ", "3 tls.client_ca: "),
        ("tls: {", "tls: {client_ca: a.pem, client_certificate: maybe, ", "3 tls.client_certificate: must be one of"),
        ("https://mcp.example.com", "http://localhost", "2 listen: must be a loopback address"),
        ("tls: {certificate: server.pem, key: server.key}\n", "", "1 tls: is missing"),
        ("certificate: server.pem", "certificate: x.pem", "3 tls.certificate: "),
        ("mcp}", "mcp, ca: x.pem}", "13 servers.files.ca: "),
        ("max_lifetime: 1h", "ca: x.pem", "11 issuers[0].ca: "),
        ("  acme: {servers: [files, git]}", "  acme: {servers: [git]}\n  acme: {}", "32 tenants.acme: "),
    ],
)  # fmt: skip
def test_each_mistake_is_reported_with_its_line_and_key(problems: Problems, old: str, new: str, expected: str) -> None:
    found = problems(changed(old, new))
    assert any(item.startswith(expected) for item in found), found


def test_a_mistake_is_reported_once(problems: Problems) -> None:
    assert len(problems(changed("role: analyst, tasks", "role: analist, tasks"))) == 1
    assert len(problems(changed("[RS256]", "[HS256]"))) == 1
    assert len(problems(changed("class: read}\n  git.git_commit", "class: reed}\n  git.git_commit"))) == 1


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(problems: Problems) -> None:
    text = CONFIG
    for old, new in (
        ("listen: 0.0.0.0:8443", "listen: nowhere"),
        ("tls: {", "tls: {client_crl: x, "),
        ("  git:   {", "  Git:   {"),
        ("servers: [files, git]", "servers: [files, gut]"),
        ("role: analyst, tasks", "role: analist, tasks"),
        ("groups: {", "groups: {a: {role: b}, a: {role: c}, "),
    ):
        text = text.replace(old, new)
    found = problems(text)
    assert [item.split(":")[0] for item in found] == [
        "2 listen",
        "3 tls.client_crl",
        "14 servers.Git",
        "16 tools.git.git_log",
        "17 tools.git.git_commit",
        "26 agents.acme/reporter.role",
        "28 groups.a",
        "28 groups.a.role",
        "31 tenants.acme.servers[1]",
    ]


def test_two_agents_cannot_share_a_binding(problems: Problems) -> None:
    second = (
        "  acme/other: {role: reader, tasks: [quarterly-report], bindings: [{issuer: embedded, client_id: reporter}]}\n"
    )
    (found,) = problems(changed("groups: {", second + "groups: {"))
    assert found == (
        "28 agents.acme/other.bindings[0]: 'reporter' of embedded is bound to acme/reporter already; "
        "one credential is one agent"
    )


def test_an_issuer_cannot_speak_for_another_tenant(problems: Problems) -> None:
    text = changed("  acme: {", "  other: {servers: [git]}\n  acme: {").replace("acme/reporter:", "other/reporter:")
    found = problems(text.replace("issuer: embedded", "issuer: https://login.example.com"))
    assert any("may not assert the tenant 'other'" in item for item in found)


def test_tenants_do_not_share_the_user_that_stdio_servers_run_as(problems: Problems) -> None:
    (found,) = problems(changed("  acme: {", "  other: {servers: [files]}\n  acme: {"))
    assert "servers.git.command: runs as Twogate's own user" in found


def test_an_issuer_may_use_another_token_type_and_pointer(load: Load) -> None:
    text = changed("max_lifetime: 1h", "types: [JWT, at+jwt]\n    jwks_uri: https://login.example.com/keys?a=1")
    (issuer,) = load(text.replace("agent: /azp", "agent: /azp, user: /sub, scope: /scp")).issuers
    assert issuer.types == ("JWT", "at+jwt")
    assert issuer.jwks_uri == "https://login.example.com/keys?a=1"
    assert (issuer.claims.user, issuer.claims.scope) == ("/sub", "/scp")


def test_one_credential_under_two_keys_is_still_one_binding(problems: Problems) -> None:
    two = "[{issuer: https://login.example.com, client_id: r}, {issuer: https://login.example.com, subject: r}]"
    (found,) = problems(changed("[{issuer: embedded, client_id: reporter}]", two))
    assert "bindings[1]: 'r' of https://login.example.com is bound to acme/reporter already" in found


def test_several_tenants_need_a_tenant_claim(problems: Problems) -> None:
    text = changed("tenants: [acme]", "tenants: [acme, other]").replace("tenant: /tenant, ", "")
    assert any("several tenants need claims.tenant" in item for item in problems(text))


def test_one_issuer_is_listed_once(problems: Problems) -> None:
    issuer = CONFIG[CONFIG.index("  - issuer") : CONFIG.index("servers:")]
    assert problems(CONFIG.replace(issuer, issuer * 2)) == [
        "12 issuers[1].issuer: https://login.example.com is listed twice; merge the two"
    ]


def test_somebody_must_be_able_to_issue_tokens(problems: Problems) -> None:
    text = re.sub(r"issuers:\n(  .*\n){6}", "", CONFIG)
    text = re.sub(r"agents:\n(  .*\n){2}", "", text) + "embedded: {enabled: false}\n"
    assert problems(text) == ["1 issuers: is missing: with the embedded server disabled nobody could get a token"]


def test_missing_tenants_are_explained_by_the_agents_tenant(problems: Problems) -> None:
    (found,) = problems(CONFIG[: CONFIG.index("tenants:\n  acme")])
    assert found.startswith("1 tenants: is missing")
    assert "`tenants: {acme: {servers: [files]}}`" in found


def test_a_private_key_that_others_can_use_is_refused(load: Load, tmp_path: Path) -> None:
    load(CONFIG)
    for mode in (0o640, 0o604, 0o660, 0o777):
        (tmp_path / "server.key").chmod(mode)
        with pytest.raises(ConfigError, match=r"run `chmod 600") as caught:
            load_settings(tmp_path / "twogate.yaml")
        assert [problem.key for problem in caught.value.problems] == ["tls.key"]


def test_http_on_this_machine_needs_no_certificate(load: Load) -> None:
    text = changed("https://mcp.example.com", "http://localhost:8080").replace("0.0.0.0:8443", "127.0.0.1:8080")
    assert load(text.replace("tls: {certificate: server.pem, key: server.key}\n", "")).tls is None


def test_a_unix_socket_may_stand_behind_a_proxy_that_speaks_tls(load: Load) -> None:
    text = changed("0.0.0.0:8443", "unix:/run/twogate.sock")
    assert load(text.replace("tls: {certificate: server.pem, key: server.key}\n", "")).tls is None


def test_relative_paths_count_from_the_file_not_from_the_working_directory(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(CONFIG)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = load_settings(Path("../twogate.yaml"))
    assert settings.tls is not None
    assert settings.tls.key.samefile(tmp_path / "server.key")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"[1, 2]\n", "not a mapping"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
        (b'public_url: "\\ud800"\n', "not valid Unicode"),
        (b"a: [", "not valid YAML"),
    ],
)
def test_what_is_no_configuration_at_all_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "twogate.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_settings(path)


def test_a_missing_file_or_a_directory_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="twogate init"):
        load_settings(tmp_path / "twogate.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path)


def test_an_error_names_file_line_and_key(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed("listen: 0.0.0.0:8443", "listen: x"))
    assert str(caught.value).startswith(f"{tmp_path / 'twogate.yaml'}:2: listen: must be")


def test_aliases_cannot_hide_what_a_setting_is(problems: Problems) -> None:
    text = changed("allow: [read, search]}", "allow: &a [read, search]}").replace(
        "allow: [read, search, fetch]}", "allow: *a}"
    )
    assert [item.split(":")[0] for item in problems(text)] == ["20 roles.reader.allow", "21 roles.analyst.allow"]


def test_settings_cannot_be_changed(load: Load) -> None:
    settings = load(CONFIG)
    with pytest.raises(ValueError, match="frozen"):
        settings.public_url = "https://evil.example"  # type: ignore[misc]  # the refusal is what is tested
