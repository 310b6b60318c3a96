"""`twogate check` says where calls would wait for people in vain."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from twogate.cli.main import app
from twogate.config import load_settings
from twogate.core.approval import Duty
from twogate.flows.authserver.passkeys import Passkey
from twogate.flows.authserver.people import User
from twogate.state import open_store
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.stores.sql.users import SqlUserStore

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./twogate.db
servers:
  git: {url: https://git.internal/mcp}
  web: {url: https://web.internal/mcp}
tools:
  git.commit: {class: write, approval: {by: [approver], people: 2}}
  git.push: {class: send, approval: {by: [approver], people: 2, within: 5m}}
  web.post:
    class: send
    approval: [{by: [operator], when: {tenants: [other]}}]
tasks:
  change: {tools: [git.commit, git.push, web.post]}
duties: {finance: [approver]}
tenants:
  acme: {servers: [git]}
  other: {servers: [git, web]}
  third: {servers: [web]}
"""
CONSOLE = "http://localhost:8080/console/approvals"
WEBHOOK = "notify:\n  chat: {webhook: {url: 'https://chat.internal/', secret: ./secret}, tenants: [acme]}\n"

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(text: str = CONFIG) -> list[str]:
        (tmp_path / "twogate.yaml").write_text(text)
        result = CliRunner().invoke(app, ["check", "-c", str(tmp_path / "twogate.yaml"), "--json"])
        assert (result.exit_code, result.stderr) == (0, "")
        notes: list[str] = json.loads(result.stdout)["warnings"]
        return [note for note in notes if "wait" in note]

    return run


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., None]:
    """Add a person to the store."""

    def run(name: str, *duties: Duty, tenant: str = "acme", passkey: bool = True, **person: tuple[str, ...]) -> None:
        async def insert() -> None:
            store = await open_store(load_settings(tmp_path / "twogate.yaml"))
            try:
                users = SqlUserStore(store.engine)
                await users.add(User(tenant, f"{tenant}-{name}", name, duties=duties, groups=person.get("groups", ())))
                if passkey:
                    key = Passkey(f"{tenant}-{name}", tenant, f"{tenant}-{name}", "", 0, "Key", 0)
                    assert await SqlPasskeyStore(store.engine).add(key, 5)
                if "disabled" in person:
                    await users.disable(tenant, f"{tenant}-{name}", 0, 1)
            finally:
                await store.close()

        asyncio.run(insert())

    return run


def test_without_a_channel_and_without_people_each_tenant_that_lets_calls_wait_is_named(check: Check) -> None:
    assert check() == [
        f"notify: no channel tells the people of acme about calls that wait; they only see them at {CONSOLE}",
        f"notify: no channel tells the people of other about calls that wait; they only see them at {CONSOLE}",
        "tenants.acme: calls of git.commit, git.push wait in vain: nobody known here is approver",
        "tenants.other: calls of git.commit, git.push wait in vain: nobody known here is approver",
        "tenants.other: calls of web.post wait in vain: nobody known here is operator",
    ]


def test_a_channel_counts_for_its_tenants_and_if_it_tells_of_requests(check: Check, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + "QUFB" * 12)
    secret.chmod(0o600)
    told = [note for note in check(CONFIG + WEBHOOK) if note.startswith("notify")]
    assert [note.split(" about")[0] for note in told] == ["notify: no channel tells the people of other"]
    late = WEBHOOK.replace("tenants: [acme]", "events: [decided]")
    assert len([note for note in check(CONFIG + late) if note.startswith("notify")]) == 2


def test_who_is_disabled_lacks_the_duty_or_a_passkey_satisfies_no_rule(check: Check, add: Callable[..., None]) -> None:
    def vain() -> list[str]:
        return [note.split("in vain: ")[1] for note in check() if note.startswith("tenants.acme")]

    check()
    add("viewer", Duty.VIEWER)
    add("gone", Duty.APPROVER, disabled=())
    add("elsewhere", Duty.APPROVER, tenant="other")
    assert vain() == ["nobody known here is approver"]
    add("bob", Duty.APPROVER)
    assert vain() == ["2 people must approve, and 1 may (approver)"]
    add("eve", groups=("finance", "other"), passkey=False)
    assert vain() == ["2 must sign, and of the 2 who may approve (approver) 1 have a passkey"]
    add("zoe", Duty.APPROVER, Duty.VIEWER)
    assert vain() == []


def test_whoever_may_decide_after_the_escalation_counts(check: Check, add: Callable[..., None]) -> None:
    text = CONFIG.replace("people: 2}", "escalate: {after: 1m, to: [administrator]}}")
    check(text)
    add("root", Duty.ADMINISTRATOR)
    notes = [note for note in check(text) if note.startswith("tenants.acme")]
    assert notes == ["tenants.acme: calls of git.push wait in vain: nobody known here is approver"]


def test_without_rules_nothing_is_said_and_no_store_is_asked(check: Check, tmp_path: Path) -> None:
    without = re.sub(r", approval: {.*}}", "}", CONFIG)
    without = re.sub(r"\n    approval: .*", "", without)
    assert "approval:" not in without
    assert check(without) == []
    assert not (tmp_path / "twogate.db").exists()
