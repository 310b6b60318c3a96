"""Gate two: which session is in force, and in which order a call is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gatelab import AGENT, NOW, POLICY, PRINCIPAL, CountingRng, FakeClock, MemorySessions, RecordingAudit, policy
from twogate.core.access import Tenant
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.principal import Principal
from twogate.core.session import MAX_LIFETIME, Session
from twogate.flows.gateway.admit import Admitted, Refused, admit
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.read import Authenticated, CallError, read_call
from twogate.flows.gateway.seal import McpSession, Seal, TaskId
from twogate.flows.sessions import Sessions

VERSION = "2025-11-25"
SEAL = Seal(bytes(32))
NO_DEFAULT = msgspec.structs.replace(PRINCIPAL, agent=msgspec.structs.replace(AGENT, default_task=None))
TWO_TASKS = msgspec.structs.replace(PRINCIPAL, agent=msgspec.structs.replace(AGENT, concurrent_tasks=2))


class Lab:
    def __init__(self) -> None:
        self.store = MemorySessions()
        self.audit = RecordingAudit()
        self.sessions = Sessions(self.store, self.store, lambda: POLICY, self.audit, FakeClock(), CountingRng())

    async def admit(
        self,
        method: str = "tools/call",
        params: dict[str, Any] | None = None,
        *,
        principal: Principal = PRINCIPAL,
        server: str = "files",
        now: int = NOW,
        of: Any = POLICY,
        **headers: str,
    ) -> Admitted | Refused:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        head = Head("POST", server, {"mcp-protocol-version": VERSION, **given}, b"", "192.0.2.1")
        message = Message(Kind.REQUEST, 1, method, {"name": "look"} if params is None else params)
        call = read_call(Authenticated(head, principal), message, SEAL)
        return await admit(call, self.sessions, of, now)

    async def code(self, *args: Any, **changes: Any) -> ErrorCode:
        refused = await self.admit(*args, **changes)
        assert isinstance(refused, Refused)
        return refused.error.code

    async def session(self, task: str = "report", principal: Principal = PRINCIPAL) -> Session:
        return await self.sessions.declare(task, principal, NOW)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def named(principal: Principal, session: Session) -> Principal:
    return msgspec.structs.replace(principal, session_id=session.id)


# The session.


async def test_without_anything_else_the_default_task_is_declared(lab: Lab) -> None:
    admitted = await lab.admit()
    assert isinstance(admitted, Admitted)
    assert admitted.session is not None
    assert (admitted.session.task, admitted.target) == ("report", "files.look")


async def test_without_a_default_task_a_call_needs_a_session(lab: Lab) -> None:
    assert await lab.code(principal=NO_DEFAULT) is ErrorCode.SESSION_REQUIRED
    assert lab.store.rows == {}


async def test_a_session_is_found_by_the_header_the_token_or_the_declared_task(lab: Lab) -> None:
    session = await lab.session("edit")
    for admitted in (
        await lab.admit(twogate_session=session.id),
        await lab.admit(principal=named(PRINCIPAL, session)),
        await lab.admit(twogate_task="edit"),
        await lab.admit(principal=named(PRINCIPAL, session), twogate_session=session.id, twogate_task="edit"),
    ):
        assert isinstance(admitted, Admitted)
        assert admitted.session == session


async def test_sources_that_name_different_sessions_are_a_conflict(lab: Lab) -> None:
    report, edit = await lab.session("report", TWO_TASKS), await lab.session("edit", TWO_TASKS)
    conflict = ErrorCode.SESSION_CONFLICT
    assert await lab.code(principal=named(TWO_TASKS, report), twogate_session=edit.id) is conflict
    assert await lab.code(principal=TWO_TASKS, twogate_session=report.id, twogate_task="edit") is conflict
    assert await lab.code(principal=named(TWO_TASKS, report), twogate_task="edit") is conflict


@pytest.mark.parametrize("session_id", ["", "unknown", "ä"])
async def test_a_named_session_that_does_not_exist_does_not_fall_back_to_the_default(lab: Lab, session_id: str) -> None:
    assert await lab.code(twogate_session=session_id) is ErrorCode.SESSION_UNKNOWN
    assert lab.store.rows == {}


async def test_a_session_that_is_anothers_ended_or_expired_is_refused_for_every_kind_of_method(lab: Lab) -> None:
    session = await lab.session()
    stranger = msgspec.structs.replace(PRINCIPAL, issuer="https://other.example.com")
    for method in ("tools/call", "tools/list", "ping"):
        assert await lab.code(method, principal=stranger, twogate_session=session.id) is ErrorCode.SESSION_MISMATCH
        assert await lab.code(method, twogate_session=session.id, now=NOW + MAX_LIFETIME) is ErrorCode.SESSION_EXPIRED
    await lab.store.end(session.id, NOW)
    for method in ("tools/call", "tools/list", "ping"):
        assert await lab.code(method, twogate_session=session.id) is ErrorCode.SESSION_ENDED


async def test_an_unknown_or_second_task_is_refused_and_never_replaced_by_the_default(lab: Lab) -> None:
    assert await lab.code(twogate_task="ghost") is ErrorCode.TASK_UNKNOWN
    await lab.session("report")
    assert await lab.code(twogate_task="edit") is ErrorCode.TASK_LIMIT


async def test_open_methods_open_no_session_unless_a_task_is_declared(lab: Lab) -> None:
    admitted = await lab.admit("ping", {})
    assert isinstance(admitted, Admitted)
    assert admitted.session is None
    assert lab.store.rows == {}
    declared = await lab.admit("ping", {}, twogate_task="report")
    assert isinstance(declared, Admitted)
    assert declared.session is not None


# The method and the target.


@pytest.mark.parametrize(
    "method", ["ping", "initialize", "tools/list", "resources/list", "prompts/list", "logging/setLevel"]
)
async def test_methods_without_target_need_a_server_of_the_tenant_only(lab: Lab, method: str) -> None:
    params = {"protocolVersion": VERSION} if method == "initialize" else {}
    admitted = await lab.admit(method, params)
    assert isinstance(admitted, Admitted)
    assert admitted.target == ""
    assert await lab.code(method, params, server="notes") is ErrorCode.TENANT_SERVER_REFUSED
    assert await lab.code(method, params, of=policy(tenants={})) is ErrorCode.TENANT_SERVER_REFUSED


async def test_closed_methods_are_refused(lab: Lab) -> None:
    assert await lab.code("tasks/list", {}) is ErrorCode.METHOD_NOT_PERMITTED


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
async def test_a_task_is_decided_as_the_call_that_made_it(lab: Lab, method: str) -> None:
    def of(target: str) -> dict[str, Any]:
        return {"taskId": SEAL.seal(TaskId("t-1", target), PRINCIPAL.key, "files")}

    admitted = await lab.admit(method, of("files.look"))
    assert isinstance(admitted, Admitted)
    assert admitted.call.message.params["taskId"] == "t-1"
    assert await lab.code(method, of("files.wipe")) is ErrorCode.ROLE_NOT_PERMITTED


async def test_a_session_bound_at_initialize_is_in_force_and_must_agree_with_every_other_source(lab: Lab) -> None:
    report, edit = await lab.session("report", TWO_TASKS), await lab.session("edit", TWO_TASKS)
    bound = SEAL.seal(McpSession("up-1", edit.id, VERSION), TWO_TASKS.key, "files")
    admitted = await lab.admit(principal=TWO_TASKS, mcp_session_id=bound)
    assert isinstance(admitted, Admitted)
    assert admitted.session == edit
    conflict = ErrorCode.SESSION_CONFLICT
    assert await lab.code(principal=TWO_TASKS, mcp_session_id=bound, twogate_session=report.id) is conflict
    assert await lab.code(principal=TWO_TASKS, mcp_session_id=bound, twogate_task="report") is conflict
    assert await lab.code(principal=named(TWO_TASKS, report), mcp_session_id=bound) is conflict


@pytest.mark.parametrize(
    ("method", "params", "target"),
    [
        ("tools/call", {"name": "unlisted"}, "files.unlisted"),
        ("resources/read", {"uri": "file:///b"}, "files.resource:file:///b"),
        ("resources/subscribe", {"uri": "file:///b"}, "files.resource:file:///b"),
        ("prompts/get", {"name": "p"}, "files.prompt:p"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "files.prompt:p"),
    ],
)
async def test_everything_that_acts_on_something_is_decided_by_what_it_acts_on(
    lab: Lab, method: str, params: dict[str, Any], target: str
) -> None:
    refused = await lab.admit(method, params)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.target) == (ErrorCode.TARGET_UNCLASSIFIED, target)
    assert refused.session is not None


async def test_a_tool_that_needs_a_token_is_admitted_as_one(lab: Lab) -> None:
    admitted = await lab.admit("tools/call", {"name": "change"}, twogate_task="edit")
    assert isinstance(admitted, Admitted)
    assert (admitted.gated, admitted.target, admitted.operation) == (True, "files.change", None)
    free = await lab.admit("tools/call", {"name": "look"}, twogate_task="edit")
    assert isinstance(free, Admitted)
    assert not free.gated


async def test_a_scope_shortfall_names_the_scopes_that_would_help(lab: Lab) -> None:
    refused = await lab.admit(of=policy(scopes={"reports": frozenset({"read"}), "other": frozenset({"write"})}))
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.scopes) == (ErrorCode.SCOPE_INSUFFICIENT, ("reports",))


async def test_a_server_of_the_tenant_now_is_not_enough_without_the_tool_in_the_session(lab: Lab) -> None:
    session = await lab.session()
    narrowed = msgspec.structs.replace(session, targets=frozenset({"notes.look"}))
    lab.store.rows[session.id] = narrowed
    lab.store.revision += 1
    both = policy(tenants={"acme": Tenant(frozenset({"files", "notes"}))})
    assert await lab.code(of=both, twogate_session=session.id) is ErrorCode.TASK_NOT_PERMITTED
    assert isinstance(await lab.admit(of=both, server="notes", twogate_session=session.id), Admitted)


# Failures of our own.


async def test_an_audit_trail_that_takes_no_session_refuses_the_call_with_its_id(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.SESSION_OPENED})
    with pytest.raises(CallError) as refusal:
        await lab.admit()
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert refusal.value.message.id == 1


async def test_a_store_that_cannot_be_asked_refuses_the_call_with_its_id(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise GateError(ErrorCode.STORE_UNAVAILABLE)

    monkeypatch.setattr(lab.store, "current", fail)
    with pytest.raises(CallError) as refusal:
        await lab.admit()
    assert refusal.value.code is ErrorCode.STORE_UNAVAILABLE
    assert refusal.value.message.id == 1


async def test_a_target_that_cannot_be_told_is_refused(lab: Lab) -> None:
    with pytest.raises(CallError) as refused:
        await lab.admit("completion/complete", {"ref": {"type": "ref/other"}})
    assert refused.value.code is ErrorCode.INVALID_PARAMS
