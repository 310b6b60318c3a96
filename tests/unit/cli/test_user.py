"""`twogate user`: what is printed, what is stored, what is written down, and what is refused."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from processlab import read_events
from twogate.cli.main import app
from twogate.config import load_settings
from twogate.flows.authserver.passkeys import Passkey
from twogate.state import open_store
from twogate.stores.sql.passkeys import SqlPasskeyStore

CONFIG = """\
public_url: {url}
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
state: state
servers:
  git: {{url: http://git.internal/mcp}}
groups:
  finance: {{role: analyst}}
embedded: {{enabled: {enabled}}}
{issuers}
tenants:
  acme: {{servers: [git]}}
  globex: {{}}
"""
ISSUERS = """\
issuers:
  - issuer: https://idp.example
    algorithms: [ES256]
    tenants: [acme]
    roles: [reader]
    claims: {tenant: /t, role: /r, agent: /a}
"""
PASSWORD = "correct horse battery"

Run = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "twogate.yaml"
    path.write_text(CONFIG.format(url="http://localhost:8080", enabled="true", issuers=""))
    return path


@pytest.fixture
def run(config: Path) -> Run:
    def invoke(*args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, ["user", *args, "--config", str(config)], input=stdin)

    return invoke


def document(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def events(config: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(config.parent / "state" / "audit") if event["kind"] == kind]


def everything_written(config: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (config.parent / "state").rglob("*") if path.is_file())


def test_adding_prints_a_link_once_and_keeps_its_digest(run: Run, config: Path) -> None:
    added = document(
        run("add", "acme/Alice", "--role", "analyst", "--group", "finance", "--display-name", "A", "--json")
    )
    assert (added["user"], added["roles"], added["groups"], added["state"]) == (
        "acme/alice",
        ["analyst"],
        ["finance"],
        "enabled",
    )
    url, _, secret = added["link"].partition("#")
    assert url == "http://localhost:8080/link"
    assert len(secret) == 43
    assert secret.encode() not in everything_written(config)
    assert [(event["user"], event["tenant"]) for event in events(config, "user.added")] == [(added["subject"], "acme")]
    assert [event["detail"] for event in events(config, "link.issued")] == ["welcome"]


def test_people_are_told_what_to_do_with_the_link(run: Run) -> None:
    printed = run("add", "acme/alice")
    assert printed.exit_code == 0
    assert "http://localhost:8080/link#" in printed.stdout
    assert "once" in printed.stdout
    assert "good until" in printed.stdout


def test_the_list_shows_how_people_log_in(run: Run) -> None:
    run("add", "acme/alice")
    run("add", "globex/bob", "--role", "reader")
    run("passwd", "acme/alice", "--prompt", stdin=f"{PASSWORD}\n")
    users = document(run("list", "--json"))["users"]
    assert [(user["user"], user["password"], user["passkeys"], user["last_login_at"]) for user in users] == [
        ("acme/alice", True, 0, None),
        ("globex/bob", False, 0, None),
    ]
    assert [user["user"] for user in document(run("list", "--tenant", "globex", "--json"))["users"]] == ["globex/bob"]
    table = run("list").stdout
    assert "nothing yet" in table
    assert "never" in table


def test_disabling_and_enabling(run: Run, config: Path) -> None:
    subject = document(run("add", "acme/alice", "--json"))["subject"]
    assert document(run("disable", "acme/alice", "--json")) == {
        "user": "acme/alice",
        "state": "disabled",
        "changed": True,
    }
    assert document(run("disable", "acme/alice", "--json"))["changed"] is False
    (user,) = document(run("list", "--json"))["users"]
    assert user["state"] == "disabled"
    refused = run("link", "acme/alice")
    assert (refused.exit_code, "enable them first" in refused.stderr) == (1, True)
    assert "is enabled" in run("enable", "acme/alice").stdout
    assert "was enabled already" in run("enable", "acme/alice").stdout
    assert [event["user"] for event in events(config, "user.disabled")] == [subject] * 2


def test_changing_gives_exactly_what_is_named(run: Run) -> None:
    run("add", "acme/alice", "--role", "reader", "--group", "finance")
    changed = document(run("change", "acme/alice", "--role", "analyst", "--role", "executor", "--json"))
    assert (changed["roles"], changed["groups"]) == (["analyst", "executor"], ["finance"])
    changed = document(run("change", "acme/alice", "--no-roles", "--no-groups", "--display-name", "Alice", "--json"))
    assert (changed["roles"], changed["groups"], changed["display_name"]) == ([], [], "Alice")
    assert run("change", "acme/alice").exit_code == 2
    assert run("change", "acme/alice", "--role", "reader", "--no-roles").exit_code == 2


@pytest.mark.parametrize(
    ("args", "purpose"),
    [
        (("passwd", "acme/alice"), "password"),
        (("link", "acme/alice"), "passkey"),
        (("link", "acme/alice", "--purpose", "password"), "password"),
        (("link", "acme/alice", "--purpose", "welcome"), "welcome"),
    ],
)
def test_links_for_later(run: Run, config: Path, args: tuple[str, ...], purpose: str) -> None:
    run("add", "acme/alice")
    made = document(run(*args, "--json"))
    assert (made["user"], made["purpose"]) == ("acme/alice", purpose)
    assert events(config, "link.issued")[-1]["detail"] == purpose


def test_a_password_comes_from_standard_input_and_stands_nowhere(run: Run, config: Path) -> None:
    run("add", "acme/alice")
    done = run("passwd", "acme/alice", "--prompt", stdin=f"{PASSWORD}\n")
    assert (done.exit_code, "is set" in done.stdout) == (0, True)
    assert PASSWORD.encode() not in everything_written(config)
    assert PASSWORD not in done.output
    assert b"$argon2id$" in everything_written(config)
    assert events(config, "user.changed")[-1]["detail"] == "password, by an operator"


@pytest.mark.parametrize(("stdin", "told"), [("short\n", "at least 12"), ("\n", "no password"), ("", "no password")])
def test_a_bad_password_is_refused(run: Run, stdin: str, told: str) -> None:
    run("add", "acme/alice")
    refused = run("passwd", "acme/alice", "--prompt", stdin=stdin)
    assert (refused.exit_code, told in refused.stderr) == (1, True)
    assert document(run("list", "--json"))["users"][0]["password"] is False


def test_a_password_is_no_option_and_no_argument(run: Run) -> None:
    run("add", "acme/alice")
    assert run("passwd", "acme/alice", PASSWORD).exit_code == 2
    assert run("passwd", "acme/alice", "--password", PASSWORD).exit_code == 2
    assert run("add", "acme/bob", "--password", PASSWORD).exit_code == 2


@pytest.mark.parametrize("user", ["alice", "acme/", "/alice", "acme/two words", "acme/a/b", "acme/-x"])
def test_a_name_that_nobody_can_have_is_wrong_use(run: Run, user: str) -> None:
    for command in ("add", "disable", "link", "passwd"):
        assert run(command, user).exit_code == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("add", "initech/alice"), "tenants: acme, globex"),
        (("add", "acme/alice", "--role", "owner"), "roles: admin"),
        (("add", "acme/alice", "--group", "sales"), "groups: finance"),
        (("disable", "acme/nobody"), "there is no user acme/nobody"),
        (("passwd", "acme/nobody"), "there is no user acme/nobody"),
        (("list", "--tenant", "initech"), "tenants: acme, globex"),
    ],
)
def test_refusals_say_what_is_wrong(run: Run, args: tuple[str, ...], told: str) -> None:
    refused = run(*args)
    assert (refused.exit_code, told in refused.stderr) == (1, True)
    assert "error" in json.loads(run(*args, "--json").stdout)


def test_a_name_is_given_once(run: Run) -> None:
    run("add", "acme/alice")
    assert run("add", "acme/ALICE").exit_code == 1
    assert run("add", "globex/alice").exit_code == 0


def test_where_passkeys_cannot_work_no_link_promises_one(config: Path, run: Run) -> None:
    config.write_text(CONFIG.format(url="http://127.0.0.1:8080", enabled="true", issuers=""))
    run("add", "acme/alice")
    refused = run("link", "acme/alice", "--purpose", "passkey")
    assert (refused.exit_code, "passkeys need a name" in refused.stderr) == (1, True)
    assert run("passwd", "acme/alice").exit_code == 0


def test_without_the_embedded_server_nobody_is_added(config: Path, run: Run) -> None:
    config.write_text(CONFIG.format(url="http://localhost:8080", enabled="false", issuers=ISSUERS))
    refused = run("add", "acme/alice")
    assert (refused.exit_code, "embedded.enabled" in refused.stderr) == (1, True)


def test_a_lost_passkey_is_shown_and_removed_once(run: Run, config: Path) -> None:
    subject = document(run("add", "acme/alice", "--json"))["subject"]
    assert document(run("passkeys", "acme/alice", "--json")) == {"user": "acme/alice", "passkeys": []}
    assert run("passkeys", "acme/alice").stdout == "acme/alice has no passkey.\n"

    async def enrol() -> None:
        store = await open_store(load_settings(config))
        try:
            keys = SqlPasskeyStore(store.engine)
            for name in ("lost", "kept"):
                await keys.add(Passkey(name, "acme", subject, "key", 0, f"{name}\x1b[2J key", 1_800_000_000), 20)
        finally:
            await store.close()

    asyncio.run(enrol())
    shown = run("passkeys", "acme/alice").stdout
    assert "lost" in shown
    assert "\x1b" not in shown
    missing = run("passkeys", "acme/alice", "--remove", "none", "--json")
    assert (missing.exit_code, json.loads(missing.stdout)["error"]["code"]) == (1, "not_found")
    left = document(run("passkeys", "acme/alice", "--remove", "lost", "--json"))["passkeys"]
    assert [(one["id"], one["created_at"], one["last_used_at"]) for one in left] == [
        ("kept", "2027-01-15T08:00:00Z", None)
    ]
    (event,) = [event for event in read_events(config.parent / "state/audit") if event["kind"] == "passkey.removed"]
    assert event["detail"] == "lost, by an operator"
