"""`twogate client`: what is printed, what is stored, what is written down, and what is refused."""

from __future__ import annotations

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
servers:
  git: {url: http://git.internal/mcp}
tools:
  git.log: {class: read}
tasks:
  report: {tools: [read]}
agents:
  acme/public-client: {role: reader, tasks: [report]}
  acme/reporter: {role: reader, tasks: [report], bindings: [{issuer: embedded, client_id: reporter}]}
clients:
  spa: {tenant: acme, kind: public, auth: none, redirect_uris: ["https://spa.example/cb"]}
registration: {mode: token, tenant: acme}
tenants:
  acme: {servers: [git]}
  globex: {}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = tmp_path / "twogate.yaml"
    config.write_text(CONFIG)

    def invoke(*args: str, noun: str = "client") -> Result:
        return CliRunner().invoke(app, [noun, *args, "--config", str(config)])

    return invoke


LISTS = ("--agent", "acme/reporter", "--tool", "write")
NATIVE = ("add", "native", "--tenant", "acme", "--kind", "public", "--redirect-uri", "http://127.0.0.1/cb")


def document(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def message(result: Result) -> str:
    assert result.exit_code == 1
    return result.stderr


def rows(directory: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(directory / "state" / "twogate.db")) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - a constant of this file


def written(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file())


def test_a_public_client_needs_no_credential(run: Run) -> None:
    added = document(run(*NATIVE, "--json"))
    assert {key: added[key] for key in ("client_id", "tenant", "kind", "auth", "agent", "grants", "redirect_uris")} == {
        "client_id": "native",
        "tenant": "acme",
        "kind": "public",
        "auth": "none",
        "agent": "acme/public-client",
        "grants": ["authorization_code", "refresh_token"],
        "redirect_uris": ["http://127.0.0.1/cb"],
    }
    assert "client_secret" not in added
    assert "private_key_pem" not in added


def test_a_secret_is_shown_once_and_kept_as_its_digest(run: Run, tmp_path: Path) -> None:
    added = document(
        run("add", "web", "--tenant", "acme", "--kind", "host", "--auth", "client_secret",
            "--redirect-uri", "https://app.example/cb", "--json")
    )  # fmt: skip
    secret = added["client_secret"]
    kept = written(tmp_path)
    assert secret.encode() not in kept
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in kept
    assert "client_secret" not in document(run("show", "web", "--json"))


def test_a_key_pair_is_made_and_the_private_half_kept_nowhere(run: Run, tmp_path: Path) -> None:
    added = document(run("add", "gate", "--tenant", "acme", "--kind", "authorizer", *LISTS, "--json"))
    lines = added["private_key_pem"].splitlines()
    assert lines[0] == "-----BEGIN PRIVATE KEY-----"
    assert lines[1].encode() not in written(tmp_path)
    assert (added["auth"], added["grants"]) == ("private_key_jwt", ["client_credentials"])
    assert "agent" not in added


def test_an_authorizer_lists_what_it_decides_about(run: Run) -> None:
    gate = ("add", "gate", "--tenant", "acme", "--kind", "authorizer")
    more = ("--agent", "acme/reporter", "--agent", "acme/public-client", "--tool", "git.log", "--tool", "write")
    document(run(*gate, *more, "--json"))
    shown = document(run("show", "gate", "--json"))
    assert shown["agents"] == ["acme/public-client", "acme/reporter"]
    assert shown["tools"] == ["git.log", "write"]
    for wrong, hint in (
        ((), "needs --agent and --tool"),
        (LISTS[:2], "needs --agent and --tool"),
        (("--agent", "globex/x", "--tool", "write"), "another tenant"),
        (("--agent", "acme/nobody", "--tool", "write"), "no agent acme/nobody"),
        (("--agent", "acme/reporter", "--tool", "git.push"), "neither a class nor an entry"),
    ):
        assert hint in message(run("add", "other", *gate[2:], *wrong))
    assert "--tool does not go with" in message(run(*NATIVE, "--tool", "write"))
    twice = run("add", "h", "--tenant", "acme", "--kind", "host", *LISTS[:2], *LISTS[:2])
    assert twice.exit_code == 2


def test_the_clients_own_keys_are_used(run: Run, tmp_path: Path) -> None:
    keys = {"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    where = ("--public-keys", str(tmp_path / "keys.json"))
    assert "private_key_pem" not in document(
        run("add", "gate", "--tenant", "acme", "--kind", "authorizer", *LISTS, *where, "--json")
    )
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=True)]}))
    refused = message(run("add", "other", "--tenant", "acme", "--kind", "authorizer", *LISTS, *where))
    assert "private or symmetric key" in refused
    assert "private" in refused


def test_a_client_of_an_agent_is_bound_to_it(run: Run, tmp_path: Path) -> None:
    document(run("add", "second", "--tenant", "acme", "--kind", "agent", "--agent", "acme/reporter", "--json"))
    assert rows(tmp_path, "bindings") == [("jwt", "http://localhost:8080", "second", "acme", "reporter")]
    document(run("remove", "second", "--json"))
    assert rows(tmp_path, "bindings") == []


def test_a_declared_binding_is_not_stored_again(run: Run, tmp_path: Path) -> None:
    document(run("add", "reporter", "--tenant", "acme", "--kind", "agent", "--agent", "acme/reporter", "--json"))
    assert rows(tmp_path, "bindings") == []


def test_grants_have_short_names(run: Run) -> None:
    added = document(run(*NATIVE, "--grant", "authorization_code", "--grant", "device_code", "--json"))
    assert added["grants"] == ["authorization_code", "device_code"]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("add", "x", "--tenant", "nowhere", "--kind", "public", "--redirect-uri", "https://a.example/"), "no tenant"),
        (("add", "x", "--tenant", "acme", "--kind", "public"), "redirect URIs"),
        (("add", "x", "--tenant", "acme", "--kind", "public", "--redirect-uri", "http://a.example/"), "http is only"),
        (("add", "x", "--tenant", "acme", "--kind", "public", "--redirect-uri", "javascript:x"), "redirect URI"),
        ((*NATIVE, "--grant", "client_credentials"), "may have these grants"),
        ((*NATIVE, "--name", "a\u202eb"), "printable"),
        ((*NATIVE, "--agent", "acme/reporter"), "does not go with"),
        (("add", "x", "--tenant", "acme", "--kind", "agent"), "needs --agent"),
        (("add", "x", "--tenant", "acme", "--kind", "agent", "--agent", "acme/nobody"), "no agent acme/nobody"),
        (("add", "x", "--tenant", "acme", "--kind", "agent", "--agent", "acme/public-client"), "--kind public"),
        (("add", "x", "--tenant", "globex", "--kind", "agent", "--agent", "acme/reporter"), "another tenant"),
        (("add", "x", "--tenant", "acme", "--kind", "agent", "--auth", "none", "--agent", "acme/reporter"), "secret"),
        (("add", "x", "--tenant", "acme", "--kind", "authorizer", "--auth", "none"), "authenticates"),
        (("add", "x", "--tenant", "globex", "--kind", "public", "--redirect-uri", "https://a.io/"), "public-client"),
        (("add", "reporter", "--tenant", "acme", "--kind", "public", "--redirect-uri", "https://a.example/"), "binds"),
        (("add", "spa", "--tenant", "acme", "--kind", "public", "--redirect-uri", "https://a.example/"), "is declared"),
        (("remove", "spa"), "configuration"),
        (("remove", "nobody"), "no client"),
        (("show", "nobody"), "no client"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(
    run: Run, tmp_path: Path, args: tuple[str, ...], hint: str
) -> None:
    run("list")
    assert hint in message(run(*args))
    assert rows(tmp_path, "clients") == []


@pytest.mark.parametrize(
    "args",
    [
        ("add", "https://app.example/c.json", "--tenant", "acme", "--kind", "public"),
        ("add", "a b", "--tenant", "acme", "--kind", "public"),
        ("add", "x", "--tenant", "acme", "--kind", "other"),
        (*NATIVE, "--grant", "implicit"),
        (*NATIVE, "--agent", "nobody"),
        (*NATIVE, "--public-keys", "x"),
        ("registration-token", "--lifetime", "31d"),
        ("registration-token", "--lifetime", "soon"),
    ],
)
def test_wrong_use_is_exit_code_2(run: Run, args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 2


def test_the_same_id_twice_is_refused(run: Run) -> None:
    assert run(*NATIVE).exit_code == 0
    assert "already" in message(run(*NATIVE))


def test_the_list_shows_configuration_and_store(run: Run) -> None:
    run(*NATIVE)
    run("add", "acme/worker", "--role", "reader", "--task", "report", noun="agent")
    listed = document(run("list", "--json"))["clients"]
    assert [(client["client_id"], client["defined_in"]) for client in listed] == [
        ("acme.worker", "added"),
        ("native", "added"),
        ("spa", "configured"),
    ]
    assert document(run("list", "--tenant", "globex", "--json")) == {"clients": []}
    assert "native" in run("list").stdout
    assert "https://spa.example/cb" in run("show", "spa").stdout


def test_removing_a_client_takes_its_tokens_back(run: Run, tmp_path: Path) -> None:
    run(*NATIVE)
    assert document(run("remove", "native", "--json")) == {"client_id": "native", "removed": True}
    assert rows(tmp_path, "clients") == []
    assert [row[:2] for row in rows(tmp_path, "revocations")] == [("client", "native")]
    assert "no client" in message(run("remove", "native"))


def test_every_change_is_on_the_audit_trail(run: Run, tmp_path: Path) -> None:
    run(*NATIVE)
    run("remove", "native")
    run("registration-token")
    trail = b"".join(file.read_bytes() for file in (tmp_path / "state" / "audit").rglob("*") if file.is_file())
    for kind in (b"client.added", b"client.removed", b"link.issued"):
        assert trail.count(b'"kind":"' + kind + b'"') == 1


def test_a_registration_token_is_kept_as_its_digest(run: Run, tmp_path: Path) -> None:
    printed = document(run("registration-token", "--lifetime", "1h", "--json"))
    assert printed["registration_endpoint"] == "http://localhost:8080/register"
    assert len(printed["token"]) == 43
    ((kept, tenant, _, used),) = rows(tmp_path, "registration_tokens")
    assert (kept, tenant, used) == (hashlib.sha256(printed["token"].encode()).hexdigest(), "acme", None)
    assert printed["token"].encode() not in written(tmp_path)


@pytest.mark.parametrize("setting", ["", "registration: {mode: open, tenant: acme}"])
def test_tokens_are_given_only_where_they_are_taken(run: Run, tmp_path: Path, setting: str) -> None:
    config = tmp_path / "twogate.yaml"
    config.write_text(CONFIG.replace("registration: {mode: token, tenant: acme}", setting))
    assert "mode: token" in message(run("registration-token"))


def test_a_client_in_configuration_and_store_stops_every_command(run: Run, tmp_path: Path) -> None:
    run(*NATIVE)
    config = tmp_path / "twogate.yaml"
    twice = "clients:\n  native: {tenant: acme, kind: public, auth: none, redirect_uris: ['https://a.example/cb']}"
    config.write_text(CONFIG.replace("clients:", twice))
    refused = message(run("list"))
    assert "native" in refused
    assert "rename one" in refused
