from collections.abc import Callable
from pathlib import Path

import pytest

from twogate.config import ConfigError, Settings, parse_settings
from twogate.config.policy import compile_policy
from twogate.config.references_sandbox import private_directories
from twogate.config.tenants import every_role, tenant_roles, tenant_tasks, tenant_tools
from twogate.core.access import ToolClass

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
issuers:
  - {issuer: https://login.example.com, algorithms: [ES256], tenants: [acme, globex], roles: [reader, clerk],
     claims: {agent: /azp, tenant: /tenant, role: /role}}
servers:
  files: {url: http://127.0.0.1:1/mcp}
  ledger: {url: http://127.0.0.1:2/mcp, credential: {}}
tools:
  files.read: {class: read}
  files.resource:file:///a*c: {class: read}
tasks:
  review: {tools: [read]}
tenants:
  acme:
    servers: [files, ledger]
    tools: {ledger.book: {class: write}}
    roles: {clerk: {allow: [read, ledger.book]}}
    tasks: {closing: {tools: [files.read, ledger.book]}}
    secrets: {ledger: file:here/token}
  globex: {servers: [files]}
agents:
  acme/a: {role: clerk, tasks: [closing, review], bindings: [{issuer: embedded, client_id: a}]}
  globex/b: {role: reader, tasks: [review], bindings: [{issuer: embedded, client_id: b}]}
"""

Problems = Callable[..., list[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse_settings(CONFIG, tmp_path / "twogate.yaml")


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    def found(old: str, new: str) -> list[str]:
        assert CONFIG.count(old) == 1
        try:
            parse_settings(CONFIG.replace(old, new), tmp_path / "twogate.yaml")
        except ConfigError as error:
            return [f"{item.line} {item.key}: {item.message}" for item in error.problems]
        return []

    return found


def test_what_is_a_tenants_own_holds_beside_what_is_shared(settings: Settings) -> None:
    assert set(tenant_tools(settings, "acme")) == {*settings.tools, "ledger.book"}
    assert set(tenant_roles(settings, "acme")) == {*settings.roles, "clerk"}
    assert set(tenant_tasks(settings, "acme")) == {"review", "closing"}
    for tenant in ("globex", "nobody"):
        assert tenant_tools(settings, tenant) == settings.tools
        assert tenant_roles(settings, tenant) == settings.roles
        assert tenant_tasks(settings, tenant) == settings.tasks
    assert every_role(settings) == {*settings.roles, "clerk"}


def test_each_tenant_has_a_policy_that_knows_no_other_tenant(settings: Settings) -> None:
    policy = compile_policy(settings)
    acme = policy.of("acme")
    assert policy.of("globex") is policy
    assert policy.of("nobody") is policy
    assert acme.of("acme") is acme
    assert set(acme.tenants) == {"acme"}
    assert acme.classes["ledger.book"] is ToolClass.WRITE
    assert "ledger.book" not in policy.classes
    assert "clerk" in acme.roles
    assert "clerk" not in policy.roles
    assert "closing" in acme.tasks
    assert "closing" not in policy.tasks
    assert acme.generation == policy.generation


def test_without_own_things_there_is_one_policy(tmp_path: Path) -> None:
    text = CONFIG[: CONFIG.index("tenants:\n")] + "tenants: {acme: {servers: [files]}, globex: {}}\n"
    policy = compile_policy(parse_settings(text.replace(", clerk", ""), tmp_path / "twogate.yaml"))
    assert policy.by_tenant == {}
    assert policy.of("acme") is policy


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("  files.read: {class: read}\n", "  files.read: {class: read}\n  ledger.book: {class: read}\n",
         [(12, "tools.ledger.book"), (19, "tenants.acme.tools.ledger.book")]),
        ("  review: {tools: [read]}\n", "  review: {tools: [read]}\n  closing: {tools: [read]}\n",
         [(15, "tasks.closing"), (21, "tenants.acme.tasks.closing")]),
        ("tasks:\n", "roles: {reader: {allow: [read]}, clerk: {allow: [read]}}\ntasks:\n",
         [(13, "roles.clerk"), (20, "tenants.acme.roles.clerk")]),
    ],
)  # fmt: skip
def test_a_name_that_is_shared_and_a_tenants_own_is_an_error_with_both_lines(
    problems: Problems, old: str, new: str, places: list[tuple[int, str]]
) -> None:
    found = problems(old, new)
    assert [item.partition(":")[0] for item in found] == [f"{line} {key}" for line, key in places]
    assert all("nothing is overridden" in item for item in found)


def test_a_role_that_comes_with_twogate_is_shared_too(problems: Problems) -> None:
    found = problems("roles: {clerk: {allow", "roles: {reader: {allow: [write]}, clerk: {allow")
    assert found == [
        "19 tenants.acme.roles.reader: is the name of a role that comes with Twogate; rename tenants.acme.roles's"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("globex/b: {role: reader", "globex/b: {role: clerk", "25 agents.globex/b.role: unknown role 'clerk'"),
        ("reader, tasks: [review]", "reader, tasks: [closing]", "25 agents.globex/b.tasks[0]: unknown task 'closing'"),
        ("review: {tools: [read]}", "review: {tools: [ledger.book]}", "14 tasks.review.tools[0]: 'ledger.book' is not"),
        ("{ledger.book: {class: write}}", "{ledger.book: {class: write}, lodger.x: {class: read}}",
         "18 tenants.acme.tools.lodger.x: unknown server 'lodger'"),
        ("globex: {servers: [files]", "globex: {servers: [files], tools: {ledger.x: {class: read}}",
         "22 tenants.globex.tools.ledger.x: is of 'ledger', which is not among this tenant's servers"),
        ("closing: {tools: [files.read,", "closing: {tools: [files.reed,", "20 tenants.acme.tasks.closing.tools[0]: "),
        ("clerk: {allow: [read,", "clerk: {allow: [raed,", "19 tenants.acme.roles.clerk.allow[0]: 'raed' is neither"),
        ("roles: [reader, clerk]", "roles: [reader, clark]", "5 issuers[0].roles[1]: unknown role 'clark'"),
        ("tenants: [acme, globex]", "tenants: [globex]", "5 issuers[0].roles[1]: unknown role 'clerk'"),
        ("{ledger.book: {class: write}}",
         "{ledger.book: {class: write}, 'files.resource:file:///a*': {class: write}}",
         "18 tenants.acme.tools.files.resource:file:///a*: may match the same URI"),
    ],
)  # fmt: skip
def test_what_does_not_hold_together_is_an_error(problems: Problems, old: str, new: str, expected: str) -> None:
    found = problems(old, new)
    assert any(item.startswith(expected) for item in found), found


def test_one_broken_tenant_does_not_make_its_names_unknown(problems: Problems) -> None:
    (found,) = problems("servers: [files, ledger]", "servers: [files, ledger, ledger]")
    assert found == "17 tenants.acme.servers: names something twice"


def test_where_secrets_lie_no_sandboxed_server_looks(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "token").symlink_to(tmp_path / "there" / "token")
    resolved = tmp_path.resolve()
    assert {resolved / "here", resolved / "there", resolved / "state"} <= private_directories(settings)


def test_the_generation_says_whether_references_and_own_things_changed(settings: Settings, tmp_path: Path) -> None:
    for old, new in (
        ("here/token", "here/other"),
        ("{class: write}", "{class: send}"),
        ("credential: {}", "identity: true"),
    ):
        text = CONFIG.replace(old, new)
        if "credential" in old:
            text = text.replace("    secrets: {ledger: file:here/token}\n", "")
        assert parse_settings(text, tmp_path / "twogate.yaml").generation != settings.generation
