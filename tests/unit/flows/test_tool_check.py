"""A call's check by what was approved: when the server is asked, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gatelab import PRINCIPAL, RecordingAudit
from pinlab import MemoryPins, a_book, a_pin
from ruglab import FIND, LOOK, REVIEW
from twogate.adapters.argument_schema import ArgumentSchema
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.protocol import method_kind, target_of
from twogate.flows.gateway import arguments as arguments_module
from twogate.flows.gateway import pins as pins_module
from twogate.flows.gateway.arguments import ArgumentChecks
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.pins import Change
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.tool_check import ToolCheck
from twogate.flows.gateway.tool_list import Tool, ToolList, take_page, take_prompts


class Shown:
    """A catalogue of what a test says; asked for a newer list, it gives the next."""

    def __init__(self, *lists: list[Any]) -> None:
        self.lists = [self._read(item) for item in lists]
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def _read(self, entries: list[Any]) -> ToolList:
        found: dict[str, Tool] = {}
        (take_prompts if entries == [REVIEW] else take_page)(entries, found)
        return ToolList(found)

    async def tools(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        self.asked += 1
        self.meanwhile()
        if newer_than is not None and len(self.lists) > 1:
            self.lists.pop(0)
        return self.lists[0]

    prompts = tools


class Lab:
    def __init__(self, *lists: list[Any], required: bool = False) -> None:
        self.store, self.audit, self.compiled = MemoryPins(), RecordingAudit(), 0
        self.catalogue = Shown(*lists)
        book = a_book(self.store, self.audit)
        self.checks = ArgumentChecks(book, self._compile)
        servers = frozenset({"files"})
        self.check = ToolCheck(
            book, self.checks, self.catalogue, required=servers if required else frozenset(), validated=servers
        )

    def _compile(self, schema: object) -> ArgumentSchema:
        self.compiled += 1
        return ArgumentSchema(schema)

    async def run(self, method: str = "tools/call", version: str = "2025-11-25", **params: Any) -> str:
        message = Message(Kind.REQUEST, 1, method, params or {"name": "look", "arguments": {"path": "a"}})
        kind = method_kind(version, method)
        assert kind is not None
        targets = (target_of("files", message),) if kind.value == "target" else ()
        call = Call(Head("POST", "files", {}, b"", ""), PRINCIPAL, message, version, kind, targets=targets)
        return (await self.check.check(call)).pin

    async def refusal(self, method: str = "tools/call", **params: Any) -> ErrorCode:
        with pytest.raises(GateError) as refused:
            await self.run(method, **params)
        return refused.value.code


OTHER = {**LOOK, "description": "Other."}
LOOK_PIN = a_pin("files.look", LOOK)


async def test_a_call_carries_the_digest_that_was_approved() -> None:
    lab = Lab([LOOK])
    assert await lab.run() == ""
    await lab.store.approve([LOOK_PIN])
    assert await lab.run() == LOOK_PIN.digest.hex()
    assert lab.compiled == 1
    await lab.run()
    assert (lab.compiled, lab.catalogue.asked, lab.store.reads) == (1, 2, 2)


async def test_nobody_is_asked_where_nothing_is_approved_and_nothing_is_mirrored() -> None:
    lab = Lab()
    assert await lab.run() == ""
    assert lab.catalogue.asked == 0


@pytest.mark.parametrize(
    "method", ["tools/list", "ping", "resources/read", "resources/subscribe", "completion/complete"]
)
async def test_what_is_not_pinned_is_not_looked_up(method: str) -> None:
    lab = Lab(required=True)
    ref = {"ref": {"type": "ref/resource", "uri": "file:///a"}}
    assert await lab.run(method, **(ref if method == "completion/complete" else {"uri": "file:///a"})) == ""
    assert lab.store.reads == 0


async def test_an_old_list_is_asked_for_anew_before_anything_is_refused() -> None:
    lab = Lab([OTHER], [LOOK])
    await lab.store.approve([LOOK_PIN])
    assert await lab.run() == LOOK_PIN.digest.hex()
    assert lab.catalogue.asked == 2
    assert lab.audit.events == []


@pytest.mark.parametrize("shown", [[OTHER], [FIND]])
async def test_what_still_differs_is_refused_and_told_of(shown: list[Any]) -> None:
    lab = Lab([LOOK], shown)
    await lab.store.approve([LOOK_PIN])
    assert await lab.run() != ""
    lab.catalogue.lists.pop(0)
    assert await lab.refusal() is ErrorCode.TOOL_CHANGED
    assert await lab.refusal() is ErrorCode.TOOL_CHANGED
    assert lab.audit.kinds == [EventKind.TOOL_CHANGED]


async def test_a_prompt_is_looked_up_among_prompts() -> None:
    lab = Lab([REVIEW])
    pin = a_pin("files.prompt:review", REVIEW)
    await lab.store.approve([pin])
    for method, params in (
        ("prompts/get", {"name": "review"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "review"}}),
    ):
        assert await lab.run(method, **params) == pin.digest.hex()


async def test_an_approval_that_is_withdrawn_while_the_server_is_asked_does_not_hold_any_more() -> None:
    lab = Lab([LOOK])
    await lab.store.approve([LOOK_PIN])

    def withdraw() -> None:
        lab.store.rows.clear()
        lab.store.revision += 1

    lab.catalogue.meanwhile = withdraw
    assert await lab.refusal() is ErrorCode.TOOL_CHANGED


async def test_a_definition_that_was_replaced_meanwhile_is_not_what_arguments_are_checked_by() -> None:
    lab = Lab([LOOK])
    await lab.store.approve([LOOK_PIN])
    lab.store.rows["acme", "files", "files.look"] = msgspec.structs.replace(a_pin("files.look", OTHER))
    await lab.store.digests("acme", "files")
    with pytest.raises(GateError) as refused:
        await lab.checks.check("acme", "files", "files.look", LOOK_PIN.digest, {})
    assert refused.value.code is ErrorCode.TOOL_CHANGED


async def test_many_calls_at_once_compile_once() -> None:
    lab = Lab([LOOK])
    await lab.store.approve([LOOK_PIN])
    await asyncio.gather(*(lab.run() for _ in range(20)))
    assert lab.compiled == 1


async def test_compiled_schemas_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments_module, "MAX_KEPT", 3)
    tools = [{"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(5)]
    lab = Lab(tools)
    await lab.store.approve([a_pin(f"files.{tool['name']}", tool) for tool in tools])
    for tool in tools:
        await lab.run(name=tool["name"])
    assert (lab.compiled, len(lab.checks._kept)) == (5, 3)
    await lab.run(name="t0")
    assert lab.compiled == 6
    monkeypatch.setattr(arguments_module, "MAX_KEPT_BYTES", 1)
    await lab.run(name="t1")
    assert (len(lab.checks._kept), lab.checks._bytes) == (0, 0)


async def test_what_was_told_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins_module, "MAX_NOTED", 2)
    audit = RecordingAudit()
    book = a_book(audit=audit)
    for digest in (b"1", b"2", b"1", b"3", b"1", b"2"):
        await book.note("acme", "files", [Change("files.look", digest)])
    # The second was forgotten when the third came, the first was seen in between.
    assert len(audit.events) == 4


async def test_a_revision_that_only_the_store_knows_is_asked_for() -> None:
    store = MemoryPins(knows=False)
    book = a_book(store)
    await store.approve([LOOK_PIN])
    assert (await book.of("acme", "files")).digests == {"files.look": LOOK_PIN.digest}
    await store.withdraw("acme", "files", ["files.look"])
    assert (await book.of("acme", "files")).digests == {}
