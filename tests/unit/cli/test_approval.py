"""`twogate approval`: what waits, denying it, and verifying what was signed, offline."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result
from webauthn.helpers import encode_cbor

from softkey import UP, SoftKey, b64, unb64
from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.passkeys import PasskeyLibrary
from twogate.adapters.signers.local import LocalSecret
from twogate.approvals import Approvals, open_approvals
from twogate.cli.main import app
from twogate.config import load_settings
from twogate.core.approval import Decision, Duty, Rule, signed_form
from twogate.core.audit.record import AuditEvent
from twogate.core.principal import Agent, AgentId, Method, Principal, UserId
from twogate.core.session import Session
from twogate.flows.approvals.evidence import verify_event
from twogate.flows.approvals.parked import Parked, Target
from twogate.flows.approvals.voting import Approver
from twogate.flows.authserver.passkeys import Passkey
from twogate.flows.authserver.people import User
from twogate.state import State, open_state
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.stores.sql.users import SqlUserStore

URL = "http://localhost:8080"
CONFIG = f"""\
public_url: {URL}
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
state: state
tenants: {{acme: {{}}, globex: {{}}}}
"""
AGENT = Agent(AgentId("acme", "reporter"), "executor", ("release",))
BOB = User("acme", "bob-subject", "bob", duties=(Duty.APPROVER,))
FORM = json.dumps(
    {"form": "twogate-operation-v1", "method": "tools/call", "params": {"arguments": {"to": "eve\u202e"}}},
    ensure_ascii=False,
).encode()


class Lab:
    """A configuration with a store in which calls wait, and the command line over it."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "twogate.yaml"
        self.config.write_text(CONFIG)
        self.audit = directory / "state" / "audit"
        self.key = SoftKey(URL, "localhost")

    def do(self, use: Callable[[State, Approvals], Awaitable[Parked]]) -> Parked:
        async def run() -> Parked:
            state = await open_state(load_settings(self.config))
            try:
                keys = LocalSecret.open(state.settings.state_directory / "keys", KEY_FILE)
                return await use(state, open_approvals(state, state.settings, LocalEnvelope(keys, state.rng)))
            finally:
                await state.close()

        return asyncio.run(run())

    def park(self, digest: str = "cd" * 32, user: UserId | None = None) -> Parked:
        async def park(state: State, approvals: Approvals) -> Parked:
            now = state.clock.now()
            made = Principal(
                tenant="acme",
                issuer=URL,
                agent=AGENT,
                user=user,
                user_roles=(),
                groups=(),
                scopes=frozenset(),
                method=Method.JWT,
                credential="c",
                session_id=None,
                expires_at=now + 300,
            )
            session = Session("s-1", made.key, "release", frozenset({"git.x"}), now, now + 3600)
            target = Target("git", "git.x", "", digest, FORM)
            return await approvals.parking.park(made, session, target, Rule(frozenset({Duty.APPROVER})))

        return self.do(park)

    def approve(self, parked: Parked) -> Parked:
        async def approve(state: State, approvals: Approvals) -> Parked:
            assert approvals.voting is not None
            approver = Approver(BOB, URL, frozenset({Duty.APPROVER}))
            passkey = Passkey(b64(self.key.id), "acme", BOB.subject, cose_of(self.key), 0, "Key", 0)
            if await SqlUserStore(state.engine).add(BOB):
                assert await SqlPasskeyStore(state.engine).add(passkey, 20)
            options = await approvals.voting.options(parked, approver, Decision.APPROVE)
            return await approvals.voting.approve(parked.call.id, approver, self.key.get(options), "fine")

        return self.do(approve)

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(app, ["approval", *args, "--config", str(self.config)])

    def json(self, *args: str, code: int = 0) -> Any:
        result = self.run(*args, "--json")
        assert result.exit_code == code, result.stderr
        return json.loads(result.stdout or result.stderr)

    def votes(self) -> list[AuditEvent]:
        lines = [line for path in self.segments() for line in path.read_bytes().splitlines()]
        return [
            msgspec.json.decode(line[line.index(b"{") :], type=AuditEvent)
            for line in lines
            if b'"approval.voted"' in line
        ]

    def segments(self) -> list[Path]:
        return [path for path in sorted(self.audit.iterdir()) if path.is_file()]


def cose_of(key: SoftKey) -> str:
    """A passkey's public key as it is stored."""
    numbers = key.key.public_key().public_numbers()
    return b64(encode_cbor({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_what_waits_is_listed_and_shown_in_full(lab: Lab) -> None:
    assert lab.json("list") == {"approvals": [], "cut": []}
    parked = lab.park()
    (row,) = lab.json("list")["approvals"]
    assert (row["approval"], row["tool"], row["state"]) == (parked.call.id, "git.x", "pending")
    assert parked.call.id in lab.run("list").stdout
    assert lab.json("list", "--tenant", "globex") == {"approvals": [], "cut": []}
    shown = lab.json("show", parked.call.id)
    assert shown["call"]["params"]["arguments"] == {"to": "eve\u202e"}
    text = lab.run("show", parked.call.id).stdout
    assert "eve\\u202e" in text
    assert "\u202e" not in text


def test_an_operator_denies_from_the_command_line_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    parked = lab.park()
    # The environment is anybody's; the trail says the account.
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert lab.json("deny", parked.call.id, "--comment", "no")["state"] == "denied"
    assert lab.json("list") == {"approvals": [], "cut": []}
    (row,) = lab.json("list", "--all")["approvals"]
    assert row["state"] == "denied"
    (vote,) = lab.votes()
    assert (vote.decision, vote.outcome, vote.detail) == ("deny", "denied", "no")
    assert vote.client == f"operator:{pwd.getpwuid(os.getuid()).pw_name}"
    assert lab.json("deny", parked.call.id, code=1)["error"]["code"] == "approval_decided"
    assert "said so far" in lab.run("show", parked.call.id).stdout


@pytest.mark.parametrize("command", ["show", "deny", "verify"])
def test_an_approval_that_is_none_is_not_found(lab: Lab, command: str) -> None:
    lab.park()
    assert lab.json(command, "nothing", code=1)["error"]["code"] == "not_found"


def test_there_is_no_command_that_approves(lab: Lab) -> None:
    assert lab.run("approve", lab.park().call.id).exit_code == 2


def test_what_was_signed_verifies_from_the_trail_alone(lab: Lab, tmp_path: Path) -> None:
    parked = lab.park()
    lab.approve(parked)
    found = lab.json("verify")
    assert found["ok"] is True
    (one,) = found["approvals"]
    assert (one["approval"], one["approver"], one["origin"], one["problem"]) == (parked.call.id, "acme/bob", URL, "")
    # A name can be given to somebody else, and an event can be written anew; these two are what the passkey signed.
    assert (one["subject"], one["digest"]) == (BOB.subject, parked.call.digest)
    assert f"signed as {BOB.subject}" in lab.run("verify").stdout
    # Without configuration, store or keys.
    elsewhere = tmp_path / "copied"
    elsewhere.mkdir()
    for path in lab.segments():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    result = CliRunner().invoke(app, ["approval", "verify", parked.call.id, "--directory", str(elsewhere)])
    assert (result.exit_code, "1 of 1 approvals hold" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, "other") for name in ("request", "tenant", "issuer", "agent", "session", "target", "user")),
        *((name, "") for name in ("request", "tenant", "issuer", "agent", "session", "target", "server", "evidence")),
        ("server", "gi"),
        ("decision", "deny"),
        ("evidence", "{}"),
        ("evidence", "other"),
        ("at", (1 << 53)),
    ],
)
def test_an_event_that_says_something_else_than_was_signed_does_not_hold(lab: Lab, field: str, value: object) -> None:
    lab.approve(lab.park())
    (vote,) = lab.votes()
    assert verify_event(vote, PasskeyLibrary).ok
    verified = verify_event(msgspec.structs.replace(vote, **{field: value}), PasskeyLibrary)
    assert (verified.ok, bool(verified.problem)) == (False, True)


@pytest.mark.parametrize("field", ["user", "user_issuer"])
def test_the_user_whom_an_event_names_is_the_one_that_was_signed_for(lab: Lab, field: str) -> None:
    lab.approve(lab.park(user=UserId("https://idp.example", "alice")))
    (vote,) = lab.votes()
    assert verify_event(vote, PasskeyLibrary).ok
    for value in ("other", ""):
        verified = verify_event(msgspec.structs.replace(vote, **{field: value}), PasskeyLibrary)
        assert verified.problem == "what was signed says another user than the event"


def test_nothing_but_a_verified_persons_approval_of_this_very_call_is_evidence(lab: Lab) -> None:
    first, second = lab.park(), lab.park("ef" * 32)
    for parked in (first, second):
        lab.approve(parked)
    one, two = (json.loads(vote.evidence) for vote in lab.votes())
    (vote, _) = lab.votes()

    def problem(**changes: str) -> str:
        changed = msgspec.structs.replace(vote, evidence=json.dumps({**one, **changes}))
        assert not verify_event(changed, PasskeyLibrary).ok
        return verify_event(changed, PasskeyLibrary).problem

    assert problem(**two) == "what was signed says another approval than the event"
    assert problem(response=two["response"]) == "the passkey signed something else"
    assert problem(form=two["form"]) == "the passkey signed something else"
    denied = signed_form(first.call, Decision.DENY, BOB.subject)
    response = lab.key.get({"challenge": b64(hashlib.sha256(denied).digest())})
    assert problem(form=b64(denied), response=response) == "what was signed says another decision than the event"
    approved = unb64(one["form"])
    challenge = {"challenge": b64(hashlib.sha256(approved).digest())}
    faults: tuple[dict[str, Any], ...] = (
        {"flags": UP},
        {"origin": "https://evil.example"},
        {"crossOrigin": True},
        {"type": "webauthn.create"},
    )
    for changes in faults:
        assert problem(response=lab.key.get(challenge, **changes)).startswith("the signature does not hold")
    # A form that says what the event says, and was not signed.
    other = approved.replace(first.call.digest.encode(), second.call.digest.encode())
    assert problem(form=b64(other)) == "the passkey signed something else"
    stranger = SoftKey(URL, "localhost")
    assert problem(public_key=cose_of(stranger)).startswith("the signature does not hold")
    assert problem(response=stranger.get(challenge)) == "the passkey signed something else"


@pytest.mark.parametrize("how", ["stripped", "called a denial"])
def test_an_approval_without_its_signature_or_hidden_as_a_denial_makes_the_command_fail(lab: Lab, how: str) -> None:
    lab.approve(lab.park())
    (path,) = (path for path in lab.segments() if b'"approval.voted"' in path.read_bytes())
    text = path.read_bytes()
    if how == "stripped":
        text = re.sub(rb',"evidence":"(?:[^"\\]|\\.)*"', b"", text)
    else:
        text = text.replace(b'"decision":"approve"', b'"decision":"deny"')
    assert text != path.read_bytes()
    path.write_bytes(text)
    found = lab.json("verify", code=1)
    assert (found["ok"], len(found["approvals"])) == (False, 1)


def test_evidence_of_another_call_or_key_or_origin_does_not_hold(lab: Lab) -> None:
    lab.approve(lab.park())
    (vote,) = lab.votes()
    evidence = json.loads(vote.evidence)
    other = SoftKey(URL, "localhost")
    client_data = json.loads(unb64(json.loads(evidence["response"])["response"]["clientDataJSON"]))
    forged = other.get({"challenge": client_data["challenge"]})
    for changes in (
        {"form": b64(b"twogate-approval-v1\n{}")},
        {"response": forged},
        {"response": forged, "credential_id": b64(other.id)},
        {"origin": "https://evil.example"},
        {"rp_id": "evil.example"},
    ):
        changed = msgspec.structs.replace(vote, evidence=json.dumps({**evidence, **changes}))
        verified = verify_event(changed, PasskeyLibrary)
        assert (verified.ok, bool(verified.problem)) == (False, True)
    assert not verify_event(vote, PasskeyLibrary, "https://other.example").ok


def test_a_broken_approval_makes_the_command_fail(lab: Lab) -> None:
    lab.approve(lab.park())
    (path,) = (path for path in lab.segments() if b'"approval.voted"' in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"git.x"', b'"git.y"'))
    found = lab.json("verify", code=1)
    assert found["ok"] is False
    assert "another tool" in found["approvals"][0]["problem"]
    assert "DOES NOT HOLD" in lab.run("verify").stdout
