"""`twogate agent`: what is printed, what is stored, what is written down, and what is refused."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey
from typer.testing import CliRunner, Result

from twogate.cli.main import app

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
state: state
servers:
  git: {url: http://git.internal/mcp}
  web: {url: http://web.internal/mcp}
tools:
  git.log: {class: read}
  git.commit: {class: write}
tasks:
  report: {tools: [read]}
  change: {tools: [write]}
agents:
  acme/declared: {role: reader, tasks: [report], bindings: [{issuer: embedded, client_id: declared}]}
tenants:
  acme: {servers: [git]}
  globex: {}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = tmp_path / "twogate.yaml"
    config.write_text(CONFIG)

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(app, ["agent", *args, "--config", str(config)])

    return invoke


WORKER = ("add", "acme/worker", "--role", "executor", "--task", "report", "--task", "change")


def document(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def everything_written(directory: Path) -> bytes:
    """Every byte of the state directory: database, write-ahead log, audit trail, keys."""
    return b"".join(path.read_bytes() for path in sorted((directory / "state").rglob("*")) if path.is_file())


def trail(directory: Path) -> list[tuple[str, str]]:
    """Kind and agent of every event about an agent."""
    events = [
        json.loads(line)
        for path in sorted((directory / "state" / "audit").iterdir())
        for line in path.read_bytes().splitlines()
    ]
    return [(event["kind"], f"{event['tenant']}/{event['agent']}") for event in events if "agent" in event]


def test_a_new_agent_gets_a_key_pair_of_which_only_the_public_half_stays(run: Run, tmp_path: Path) -> None:
    printed = document(run(*WORKER, "--default-task", "report", "--json"))
    pem = printed.pop("private_key_pem")
    assert printed == {
        "agent": "acme/worker",
        "issuer": "http://localhost:8080",
        "token_endpoint": "http://localhost:8080/token",
        "client_id": "acme.worker",
        "token_endpoint_auth_method": "private_key_jwt",
        "resources": ["http://localhost:8080/mcp/git", "http://localhost:8080/sessions"],
    }
    private = ECKey.import_key(pem).as_dict(private=True)
    with closing(sqlite3.connect(tmp_path / "state" / "twogate.db")) as store:
        ((jwks,),) = store.execute("SELECT jwks FROM clients").fetchall()
    (public,) = json.loads(jwks)["keys"]
    assert (public["x"], public["y"]) == (private["x"], private["y"])
    assert "d" not in public
    written = everything_written(tmp_path)
    assert str(private["d"]).encode() not in written
    assert pem.splitlines()[1].encode() not in written
    assert trail(tmp_path) == [("agent.added", "acme/worker")]


def test_a_client_secret_is_shown_once_and_kept_as_its_digest_only(run: Run, tmp_path: Path) -> None:
    printed = document(run(*WORKER, "--auth", "client_secret", "--json"))
    assert printed["token_endpoint_auth_method"] == "client_secret_basic"
    assert "private_key_pem" not in printed
    secret = printed["client_secret"]
    assert len(secret) == 43
    with closing(sqlite3.connect(tmp_path / "state" / "twogate.db")) as store:
        ((digests,),) = store.execute("SELECT secret_digests FROM clients").fetchall()
    assert hashlib.sha256(secret.encode()).hexdigest() in digests
    assert secret.encode() not in everything_written(tmp_path)
    assert secret not in run("list", "--json").stdout
    again = run(*WORKER, "--auth", "client_secret")
    assert again.exit_code == 1
    assert secret not in again.output


def test_people_get_the_settings_the_key_and_how_to_use_them(run: Run) -> None:
    result = run(*WORKER)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("acme/worker is registered. Its settings, shown this once:\n")
    assert "client_id: acme.worker\n" in result.stdout
    assert result.stdout.count("-----BEGIN PRIVATE KEY-----") == 1
    assert "PrivateKeyJWTOAuthProvider" in result.stdout
    assert (
        "client_secret: "
        in run("add", "acme/other", "--role", "reader", "--task", "report", "--auth", "client_secret").stdout
    )


def test_a_declared_agent_gets_a_client_under_the_name_that_it_is_bound_to(run: Run) -> None:
    assert document(run("add", "acme/declared", "--json"))["client_id"] == "declared"
    (agent,) = document(run("list", "--json"))["agents"]
    assert agent == {
        "agent": "acme/declared", "role": "reader", "tasks": ["report"], "default_task": None, "state": "enabled",
        "defined_in": "configuration", "clients": ["declared"],
    }  # fmt: skip


def test_its_own_public_keys_are_taken_and_nothing_private_is_made(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}))
    printed = document(run(*WORKER, "--public-keys", str(keys), "--json"))
    assert printed.keys().isdisjoint({"private_key_pem", "client_secret"})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("acme/new", "--role", "boss", "--task", "report"), "--role must be one of: admin, analyst, executor, reader"),
        (("acme/new", "--task", "report"), "--role must be one of"),
        (("nowhere/new", "--role", "reader", "--task", "report"), "no tenant 'nowhere'; tenants: acme, globex"),
        (("acme/new", "--role", "reader"), "--task must name at least one task, each of: change, report"),
        (("acme/new", "--role", "reader", "--task", "nope"), "(not 'nope')"),
        (("acme/new", "--role", "reader", "--task", "report", "--default-task", "change"), "--default-task must be"),
        (("acme/declared", "--role", "admin"), "acme/declared is declared in the configuration"),
        (("acme/declared", "--task", "change"), "acme/declared is declared in the configuration"),
    ],
)
def test_what_the_configuration_does_not_know_is_refused(
    run: Run, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    result = run("add", *args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    as_json = run("add", *args, "--json")
    assert (as_json.exit_code, as_json.stderr) == (1, "")
    error = json.loads(as_json.stdout)["error"]
    assert (error["code"], says in error["message"]) == ("request_malformed", True)
    assert trail(tmp_path) == []


def test_an_existing_agent_is_not_replaced(run: Run, tmp_path: Path) -> None:
    first = document(run(*WORKER, "--json"))
    again = run(*WORKER, "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["error"]["code"] == "request_malformed"
    assert "there is an agent acme/worker already" in again.stdout
    assert document(run("add", "acme/declared", "--json"))
    assert run("add", "acme/declared").exit_code == 1
    with closing(sqlite3.connect(tmp_path / "state" / "twogate.db")) as store:
        stored = store.execute("SELECT client_id FROM clients ORDER BY client_id").fetchall()
    assert stored == [("acme.worker",), ("declared",)]
    assert first["client_id"] == "acme.worker"
    # The trail must not say that an agent was added that was not.
    assert trail(tmp_path).count(("agent.added", "acme/worker")) == 1


@pytest.mark.parametrize("name", ["worker", "/worker", "acme/", "acme/a/b", "acme/a b", "acme/\x1b[2J", "acme/ä"])
@pytest.mark.parametrize("command", [WORKER[0], "disable"])
def test_a_name_that_no_configuration_could_hold_is_wrong_use(run: Run, command: str, name: str) -> None:
    options = WORKER[2:] if command == "add" else ()
    result = run(command, name, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "TENANT/NAME" in result.stderr
    assert "\x1b" not in result.stderr
    as_json = run(command, name, *options, "--json")
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["error"]["code"] == "usage"


def test_public_keys_that_are_none_are_refused(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_bytes(b"\xff\xfe")
    assert "not a JWK set" in run(*WORKER, "--public-keys", str(keys)).stderr
    assert "No such file" in run(*WORKER, "--public-keys", str(tmp_path / "none.json")).stderr
    private = ECKey.generate_key("P-256").as_dict(private=True)
    keys.write_text(json.dumps({"keys": [private]}))
    refused = run(*WORKER, "--public-keys", str(keys))
    assert refused.exit_code == 1
    assert str(private["d"]) not in refused.output
    both = run(*WORKER, "--public-keys", str(keys), "--auth", "client_secret")
    assert both.exit_code == 2
    assert "--public-keys" in both.stderr


def test_without_the_embedded_server_there_is_nothing_to_add_to(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "twogate.yaml"
    without = CONFIG.replace("issuer: embedded", "issuer: 'https://idp.example'") + (
        "embedded: {enabled: false}\n"
        "issuers: [{issuer: 'https://idp.example', algorithms: [ES256], tenants: [acme], "
        "claims: {agent: /azp, tenant: /tenant}}]\n"
    )
    config.write_text(without)
    result = run(*WORKER)
    assert result.exit_code == 1
    assert "embedded.enabled" in result.stderr


def test_disabling_cuts_off_once_and_says_so(run: Run, tmp_path: Path) -> None:
    document(run(*WORKER, "--json"))
    first = run("disable", "acme/worker")
    assert (first.exit_code, first.stdout) == (0, "acme/worker is disabled.\n")
    assert run("disable", "acme/worker").stdout == "acme/worker was disabled already.\n"
    assert document(run("disable", "acme/worker", "--json")) == {
        "agent": "acme/worker", "state": "disabled", "changed": False,
    }  # fmt: skip
    assert document(run("disable", "acme/declared", "--json"))["changed"] is True
    states = {row["agent"]: row["state"] for row in document(run("list", "--json"))["agents"]}
    assert states == {"acme/worker": "disabled", "acme/declared": "disabled"}
    assert ("agent.disabled", "acme/worker") in trail(tmp_path)
    # No new credential brings it back.
    assert run(*WORKER).exit_code == 1


def test_a_disabled_agent_is_enabled_again_once(run: Run, tmp_path: Path) -> None:
    assert run("enable", "acme/declared").stdout == "acme/declared was not disabled.\n"
    run("disable", "acme/declared")
    assert run("enable", "acme/declared").stdout == "acme/declared is enabled.\n"
    assert document(run("enable", "acme/declared", "--json")) == {
        "agent": "acme/declared", "state": "enabled", "changed": False,
    }  # fmt: skip
    states = {row["agent"]: row["state"] for row in document(run("list", "--json"))["agents"]}
    assert states["acme/declared"] == "enabled"
    assert ("agent.enabled", "acme/declared") in trail(tmp_path)
    assert json.loads(run("enable", "acme/ghost", "--json").stdout)["error"]["code"] == "not_found"


def test_an_agent_that_is_not_there_cannot_be_disabled(run: Run, tmp_path: Path) -> None:
    result = run("disable", "acme/ghost")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no agent acme/ghost; `twogate agent list` shows them" in result.stderr
    assert json.loads(run("disable", "acme/ghost", "--json").stdout)["error"]["code"] == "not_found"
    assert trail(tmp_path) == []


def test_the_list_shows_agents_of_the_store_and_the_configuration(run: Run) -> None:
    document(run(*WORKER, "--json"))
    lines = [line.split() for line in run("list").stdout.splitlines()]
    assert lines == [
        ["Agent", "Role", "Tasks", "State", "Defined", "in", "Clients"],
        ["acme/declared", "reader", "report", "enabled", "configuration"],
        ["acme/worker", "executor", "report,", "change", "enabled", "store", "acme.worker"],
    ]


def test_a_store_that_others_may_read_is_refused(run: Run, tmp_path: Path) -> None:
    document(run("list", "--json"))
    (tmp_path / "state" / "twogate.db").chmod(0o644)
    result = run("list", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "store_unavailable"


def test_without_an_audit_trail_nobody_is_added_or_disabled(run: Run, tmp_path: Path) -> None:
    document(run(*WORKER, "--json"))
    audit = tmp_path / "state" / "audit"
    audit.rename(tmp_path / "state" / "kept")
    audit.write_text("in the way")
    for args in (("add", "acme/new", "--role", "reader", "--task", "report"), ("disable", "acme/worker")):
        result = run(*args, "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["error"]["code"] == "audit_unavailable"
    audit.unlink()
    states = {row["agent"]: row["state"] for row in document(run("list", "--json"))["agents"]}
    assert states == {"acme/worker": "enabled", "acme/declared": "enabled"}
