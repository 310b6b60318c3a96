"""What a server asks and tells its client on its own: where it goes, and that every question gets one answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stdio_servers.harness import ALICE, BOT, Client, Reader, client, content, messages, until
from twogate.core.errors import METHOD_NOT_FOUND, UNAVAILABLE, ErrorCode, GateError

SAMPLING = "sampling/createMessage"
ROOTS = "roots/list"


@pytest.fixture
async def tiny() -> AsyncIterator[Client]:
    made = client("tiny.py")
    yield made
    await made.upstream.aclose()


@pytest.fixture
async def session(tiny: Client) -> str:
    return await tiny.initialize(sampling={}, roots={})


async def consult(
    made: Client, session: str | None, identifier: Any = "q", method: str = SAMPLING, **how: Any
) -> Reader:
    """A call during which the server asks; its result is what it was answered."""
    arguments = {"id": identifier, "method": method, "params": how.pop("params", {})}
    return Reader(await made.start_call("consult", arguments=arguments, session=session, **how))


async def ask_later(made: Client, session: str, folder: Path) -> Path:
    """Make the server ask while no call is open; where it writes down how it was answered."""
    answer = folder / "answer"
    await made.call("arm", arguments={"id": "q", "method": ROOTS, "file": str(answer)}, session=session)
    await made.send("notifications/roots/list_changed", {}, identifier=None, session=session)
    return answer


async def filed(answer: Path) -> dict[str, Any]:
    await until(answer.exists, "the server got no answer")
    parsed = json.loads(content(answer))
    assert isinstance(parsed, dict)
    return parsed


async def answers(made: Client, identifier: Any, session: str | None, **how: Any) -> list[dict[str, Any]]:
    """How the server's question was answered so far."""
    seen = (await made.call("seen", session=session, **how))["seen"]
    return [message for message in seen if not message["method"] and message["id"] == identifier]


# -- Questions


@pytest.mark.parametrize("identifier", ["q", "", 0, 5, "5", -1])
async def test_a_question_travels_with_the_call_and_its_answer_goes_back(
    tiny: Client, session: str, identifier: str | int
) -> None:
    call = await consult(tiny, session, identifier, params={"maxTokens": 5})
    question = await call.next()
    assert (question["method"], question["params"]) == (SAMPLING, {"maxTokens": 5})
    assert (await tiny.respond(question["id"], {"text": "yes"}, session=session)).status == 202
    response = await call.next()
    assert response["id"] == 1
    assert response["result"] == {"answer": {"jsonrpc": "2.0", "id": identifier, "result": {"text": "yes"}}}
    assert type(response["result"]["answer"]["id"]) is type(identifier)
    assert await call.ended()


async def test_a_question_goes_to_the_stream_when_no_call_is_open(tiny: Client, session: str, tmp_path: Path) -> None:
    stream = Reader(await tiny.listen(session))
    answer = await ask_later(tiny, session, tmp_path)
    question = await stream.next()
    assert question["method"] == ROOTS
    await tiny.respond(question["id"], {"roots": []}, session=session)
    assert (await filed(answer))["result"] == {"roots": []}


async def until_answered(made: Client, identifier: Any, session: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while not found:
            found = await answers(made, identifier, session)
    return found


async def test_a_question_travels_with_the_call_even_if_a_stream_is_open(tiny: Client, session: str) -> None:
    stream = await tiny.listen(session)
    call = await consult(tiny, session)
    assert (await call.next())["method"] == SAMPLING
    await call.answer.aclose()
    await stream.aclose()


async def test_of_several_calls_the_latest_is_asked(tiny: Client, session: str) -> None:
    older = await tiny.start_call("hold", meta={"progressToken": 1}, session=session)
    call = await consult(tiny, session, meta={"progressToken": 2})
    assert (await call.next())["method"] == SAMPLING
    await older.aclose()
    await call.answer.aclose()


@pytest.mark.parametrize(
    ("capabilities", "method"), [({}, SAMPLING), ({"sampling": {}}, ROOTS), ({"roots": {}}, "elicitation/create")]
)
async def test_what_the_client_did_not_declare_is_refused_to_the_server(
    tiny: Client, capabilities: dict[str, Any], method: str
) -> None:
    session = await tiny.initialize(**capabilities)
    result = await tiny.call("consult", arguments={"id": 1, "method": method}, session=session)
    assert result["answer"]["error"]["code"] == METHOD_NOT_FOUND


async def test_a_client_that_never_shook_hands_is_asked_nothing_at_all(tiny: Client) -> None:
    result = await tiny.call("consult", arguments={"id": 1, "method": "whatever/this_is"})
    assert result["answer"]["error"]["code"] == METHOD_NOT_FOUND


@pytest.mark.parametrize("method", [SAMPLING, "ping", "whatever/this_is"])
async def test_the_stateless_era_has_no_questions(tiny: Client, method: str) -> None:
    result = await tiny.call("consult", arguments={"id": 1, "method": method}, modern=True)
    assert result["answer"]["error"]["code"] == METHOD_NOT_FOUND


async def test_a_method_that_needs_no_capability_is_passed_on(tiny: Client, session: str) -> None:
    call = await consult(tiny, session, method="whatever/this_is")
    assert (await call.next())["method"] == "whatever/this_is"
    await call.answer.aclose()


async def test_a_ping_of_the_server_is_answered_here(tiny: Client, session: str) -> None:
    result = await tiny.call("consult", arguments={"id": 1, "method": "ping"}, session=session)
    assert result["answer"]["result"] == {}


async def test_a_question_that_nobody_could_read_is_refused_at_once(tiny: Client, session: str, tmp_path: Path) -> None:
    answer = await ask_later(tiny, session, tmp_path)
    assert (await filed(answer))["error"]["code"] == METHOD_NOT_FOUND


async def test_only_the_first_answer_to_a_question_counts(tiny: Client, session: str) -> None:
    call = await consult(tiny, session)
    question = await call.next()
    for n in range(3):
        assert (await tiny.respond(question["id"], {"n": n}, session=session)).status == 202
    assert (await call.next())["result"]["answer"]["result"] == {"n": 0}
    assert len(await answers(tiny, "q", session)) == 1


@pytest.mark.parametrize("identifier", ["q", "", 1, "x.1.1"])
async def test_an_answer_to_a_question_that_was_not_asked_is_dropped(
    tiny: Client, session: str, identifier: str | int
) -> None:
    call = await consult(tiny, session)
    await call.next()
    assert (await tiny.respond(identifier, {"forged": True}, session=session)).status == 202
    assert not await answers(tiny, "q", session)
    await call.answer.aclose()


async def test_nobody_answers_for_another_principal_or_session(tiny: Client, session: str) -> None:
    other = await tiny.initialize(sampling={})
    await tiny.pid(owner=ALICE, session=session)
    call = await consult(tiny, session)
    question = await call.next()
    for how in ({"owner": ALICE, "session": session}, {"session": other}, {"session": None}):
        assert (await tiny.respond(question["id"], {"forged": True}, **how)).status == 202
    await tiny.respond(question["id"], {"mine": True}, session=session)
    assert (await call.next())["result"]["answer"]["result"] == {"mine": True}
    for how in ({"owner": ALICE, "session": session}, {"session": other}, {"session": None}):
        assert not await answers(tiny, "q", **how)


async def test_a_late_answer_is_not_the_answer_to_the_next_processs_question(tiny: Client, session: str) -> None:
    call = await consult(tiny, session, 0, params={"delete": "nothing"})
    old = await call.next()
    tiny.clock.at += 100  # so that the next process may start at once
    with pytest.raises(GateError):
        await tiny.call("die", session=session)
    again = await consult(tiny, session, 0, params={"delete": "everything"})
    new = await again.next()
    assert old["id"] != new["id"]
    await tiny.respond(old["id"], {"action": "accept"}, session=session)
    await tiny.respond(new["id"], {"action": "decline"}, session=session)
    assert (await again.next())["result"]["answer"]["result"] == {"action": "decline"}


async def test_questions_with_one_id_are_one_question(tiny: Client, session: str) -> None:
    told = [{"id": 7, "method": SAMPLING, "params": {"n": n}} for n in (1, 2)]
    told.append({"method": "notifications/message", "params": {"level": "info", "data": "that was all"}})
    call = Reader(await tiny.start_call("emit", arguments={"messages": told, "hold": True}, session=session))
    question = await call.next()
    assert question["params"] == {"n": 1}
    assert (await call.next())["method"] == "notifications/message"
    await tiny.respond(question["id"], {}, session=session)
    await tiny.call("release", session=session)
    assert "result" in await call.next()
    assert len(await answers(tiny, 7, session)) == 1


async def test_a_question_is_refused_when_its_call_is_given_up(tiny: Client, session: str) -> None:
    call = await consult(tiny, session)
    question = await call.next()
    await call.answer.aclose()
    (answer,) = await until_answered(tiny, "q", session)
    assert answer["error"]["code"] == UNAVAILABLE
    await tiny.respond(question["id"], {"late": True}, session=session)
    assert len(await answers(tiny, "q", session)) == 1


async def test_a_question_is_refused_when_its_stream_is_closed(tiny: Client, session: str, tmp_path: Path) -> None:
    stream = Reader(await tiny.listen(session))
    answer = await ask_later(tiny, session, tmp_path)
    question = await stream.next()
    await stream.answer.aclose()
    assert (await filed(answer))["error"]["code"] == UNAVAILABLE
    await tiny.respond(question["id"], {"late": True}, session=session)
    assert len(await answers(tiny, "q", session)) == 1


async def test_a_question_that_the_reader_never_read_is_refused_when_it_goes(tiny: Client, session: str) -> None:
    other = await tiny.start_call("hold", meta={"progressToken": 1}, session=session)
    answer = await tiny.start_call(
        "emit", arguments={"messages": [{"id": "q", "method": SAMPLING}]}, meta={"progressToken": 2}, session=session
    )
    # The call has its response, but the question before it was not read.
    await answer.aclose()
    (refusal,) = await until_answered(tiny, "q", session)
    assert refusal["error"]["code"] == UNAVAILABLE
    await other.aclose()


async def test_a_question_that_outlives_its_call_is_refused_if_nobody_else_is_there(tiny: Client, session: str) -> None:
    answer = await tiny.start_call("emit", arguments={"messages": [{"id": "q", "method": SAMPLING}]}, session=session)
    question, response = await messages(answer)
    assert (question["method"], response["result"]) == (SAMPLING, {})
    (refusal,) = await until_answered(tiny, "q", session)
    assert refusal["error"]["code"] == UNAVAILABLE


@pytest.mark.parametrize("there", ["call", "stream"])
async def test_a_question_that_outlives_its_call_can_be_answered_while_the_client_is_there(
    tiny: Client, session: str, there: str
) -> None:
    # Two calls are open, and the server's question, meant for the older, went to the latest, which ends first.
    if there == "call":
        other = await tiny.start_call("hold", meta={"progressToken": 1}, session=session)
    else:
        other = await tiny.listen(session)
    answer = await tiny.start_call("emit", arguments={"messages": [{"id": "q", "method": SAMPLING}]}, session=session)
    question, _ = await messages(answer)
    assert not await answers(tiny, "q", session)
    await tiny.respond(question["id"], {"late": True}, session=session)
    (got,) = await answers(tiny, "q", session)
    assert got["result"] == {"late": True}
    await other.aclose()


async def test_what_the_server_takes_back_is_taken_back_from_the_client(tiny: Client, session: str) -> None:
    told = [
        {"id": "q", "method": SAMPLING},
        {"method": "notifications/cancelled", "params": {"requestId": "other"}},
        {"method": "notifications/cancelled", "params": {"requestId": "q", "reason": "enough"}},
    ]
    call = Reader(await tiny.start_call("emit", arguments={"messages": told, "hold": True}, session=session))
    question, cancelled = await call.next(), await call.next()
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"] == {"requestId": question["id"], "reason": "enough"}
    await tiny.respond(question["id"], {"late": True}, session=session)
    await tiny.call("release", session=session)
    assert "result" in await call.next()
    assert not await answers(tiny, "q", session)


async def test_the_client_may_take_longer_than_the_server(tiny: Client, session: str) -> None:
    call = await consult(tiny, session, timeout=1.0)
    question = await call.next()
    waiting = asyncio.create_task(call.next())
    await asyncio.sleep(1.5)
    assert not waiting.done()
    await tiny.respond(question["id"], {}, session=session)
    assert "result" in await waiting


async def test_the_client_may_not_take_for_ever() -> None:
    made = client("tiny.py", patience=0.2)
    session = await made.initialize(sampling={})
    call = await consult(made, session)
    await call.next()
    with pytest.raises(GateError) as caught:
        await call.next()
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    (answer,) = await until_answered(made, "q", session)
    assert answer["error"]["code"] == UNAVAILABLE
    await made.upstream.aclose()


async def test_when_the_client_has_answered_the_server_has_its_usual_time(tiny: Client, session: str) -> None:
    told = [{"id": "q", "method": SAMPLING}]
    arguments = {"messages": told, "hold": True}
    call = Reader(await tiny.start_call("emit", arguments=arguments, session=session, timeout=1.0))
    question = await call.next()
    waiting = asyncio.create_task(call.next())
    await asyncio.sleep(0.05)  # so that it waits for the client
    await tiny.respond(question["id"], {}, session=session)
    with pytest.raises(GateError) as caught:
        await waiting
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT


async def test_only_so_many_questions_are_open_at_once() -> None:
    made = client("tiny.py", questions=3)
    session = await made.initialize(sampling={})
    asked = [{"id": n, "method": SAMPLING} for n in range(5)]
    call = Reader(await made.start_call("emit", arguments={"messages": asked, "hold": True}, session=session))
    questions = [await call.next() for _ in range(3)]
    for refused in (3, 4):
        (answer,) = await until_answered(made, refused, session)
        assert answer["error"]["code"] == UNAVAILABLE
    await made.respond(questions[0]["id"], {}, session=session)
    again = await consult(made, session, "again")
    assert (await again.next())["method"] == SAMPLING
    for reader in (call, again):
        await reader.answer.aclose()
    await made.upstream.aclose()


async def test_a_question_that_does_not_fit_is_refused() -> None:
    made = client("tiny.py", queued_bytes=2000)
    session = await made.initialize(sampling={})
    result = await made.call(
        "consult", arguments={"id": "q", "method": SAMPLING, "params": {"x": "x" * 2000}}, session=session
    )
    assert result["answer"]["error"]["code"] == UNAVAILABLE
    await made.upstream.aclose()


async def test_the_clients_progress_with_a_question_reaches_the_server(tiny: Client, session: str) -> None:
    call = await consult(tiny, session, params={"_meta": {"progressToken": 9}})
    question = await call.next()
    assert question["params"]["_meta"] == {"progressToken": 9}
    for token in (True, "9", 10, 9):
        progress = {"progressToken": token, "progress": 1}
        await tiny.send("notifications/progress", progress, identifier=None, session=session)
    seen = await tiny.until_seen(lambda message: message["method"] == "notifications/progress", session=session)
    assert seen["params"]["progressToken"] == 9
    await call.answer.aclose()


async def test_a_clients_answer_to_a_server_that_does_not_read_times_out() -> None:
    made = client("hostile.py", "ask_and_stop")
    session = await made.initialize(sampling={})
    call = Reader(await made.start_call("x", session=session))
    question = await call.next()
    message = {"text": "x" * 1_000_000}
    with pytest.raises(GateError) as caught:
        async with asyncio.timeout(20):
            await made.respond(question["id"], message, session=session, timeout=0.3)
    assert caught.value.code is ErrorCode.UPSTREAM_TIMEOUT
    await call.answer.aclose()
    await made.upstream.aclose()


# -- What a server says on its own


@pytest.mark.parametrize(
    "method",
    [
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/tasks/status",
        "notifications/elicitation/complete",
    ],
)
async def test_what_belongs_to_no_call_goes_to_the_stream(tiny: Client, session: str, method: str) -> None:
    stream = Reader(await tiny.listen(session))
    answer = await tiny.start_call(
        "emit", arguments={"messages": [{"method": method, "params": {"x": 1}}]}, session=session
    )
    assert [message.get("method") for message in await messages(answer)] == [None]
    told = await stream.next()
    assert (told["method"], told["params"]) == (method, {"x": 1})


async def test_without_a_stream_only_log_messages_go_to_the_latest_call(tiny: Client, session: str) -> None:
    told = [
        {"method": "notifications/tools/list_changed"},
        {"method": "notifications/message", "params": {"level": "info", "data": "x"}},
        {"method": "notifications/whatever"},
    ]
    older = await tiny.start_call("hold", meta={"progressToken": 1}, session=session)
    answer = await tiny.start_call("emit", arguments={"messages": told}, session=session)
    assert [message.get("method") for message in await messages(answer)] == ["notifications/message", None]
    await tiny.call("release", session=session)
    assert [message.get("method") for message in await messages(older)] == ["notifications/progress"] * 2 + [None]


async def test_what_nobody_knows_goes_nowhere(tiny: Client, session: str) -> None:
    stream = Reader(await tiny.listen(session))
    told = [{"method": "notifications/whatever"}, {"method": "notifications/initialized"}, {"method": "tools/call"}]
    await tiny.call("emit", arguments={"messages": told}, session=session)
    await tiny.call("emit", arguments={"messages": [{"method": "notifications/tools/list_changed"}]}, session=session)
    assert (await stream.next())["method"] == "notifications/tools/list_changed"


# -- Subscriptions of the stateless era


async def subscribe(made: Client, identifier: str | int = "mine", **how: Any) -> Reader:
    reader = Reader(
        await made.send("subscriptions/listen", {"notifications": {}}, identifier=identifier, modern=True, **how)
    )
    acknowledged = await reader.next()
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": identifier}
    return reader


async def test_a_subscription_is_a_stream_with_the_callers_id(tiny: Client) -> None:
    streams = [await subscribe(tiny, identifier) for identifier in ("mine", 1, "mine")]
    await tiny.call("publish", modern=True)
    for stream, identifier in zip(streams, ("mine", 1, "mine"), strict=True):
        told = await stream.next()
        assert told["method"] == "notifications/resources/updated"
        assert told["params"] == {"uri": "a:b", "_meta": {"io.modelcontextprotocol/subscriptionId": identifier}}
    await tiny.call("unpublish", modern=True)
    for stream, identifier in zip(streams, ("mine", 1, "mine"), strict=True):
        assert await stream.next() == {
            "jsonrpc": "2.0",
            "id": identifier,
            "result": {"_meta": {"io.modelcontextprotocol/subscriptionId": identifier}},
        }
        assert await stream.ended()


async def test_a_subscription_may_be_silent_for_longer_than_the_timeout(tiny: Client) -> None:
    await tiny.pid(modern=True)
    stream = await subscribe(tiny, timeout=1.0)
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(1.5)
    await tiny.call("publish", modern=True)
    assert (await waiting)["method"] == "notifications/resources/updated"


async def test_a_subscription_that_is_refused_is_json(tiny: Client) -> None:
    # This server knows the method in the stateless era only; another one answers with an error.
    made = client("hostile.py", "refuse_calls")
    answer = await made.send("subscriptions/listen", {}, modern=True)
    assert answer.content_type == "application/json"
    assert (await messages(answer))[0]["error"]["code"] == -32601
    await made.upstream.aclose()


async def test_closing_a_subscription_cancels_it_at_the_server(tiny: Client) -> None:
    stream = await subscribe(tiny)
    await stream.answer.aclose()
    cancelled = await tiny.until_seen(lambda message: message["method"] == "notifications/cancelled", modern=True)
    assert cancelled["params"] == {"requestId": 1}


async def test_a_subscription_that_the_server_cancels_ends(tiny: Client) -> None:
    stream = await subscribe(tiny)
    await tiny.call("unpublish", arguments={"cancel": True}, modern=True)
    assert await stream.ended()
    assert tiny.upstream._slots[BOT, True, ""].link is not None
    seen = (await tiny.call("seen", modern=True))["seen"]
    assert "notifications/cancelled" not in [message["method"] for message in seen]


async def test_what_names_no_open_subscription_reaches_none(tiny: Client) -> None:
    stream = await subscribe(tiny)
    key = "io.modelcontextprotocol/subscriptionId"
    strays = [{"_meta": {key: other}} for other in (2, "2", True, 1.0, None, [1], "x" * 100, {"a": 1})]
    told = [{"method": "notifications/resources/updated", "params": params} for params in [*strays, {"_meta": 1}, {}]]
    told.append({"method": "notifications/cancelled", "params": {"requestId": 2}})
    # The second request on the line is this very call, which subscribed to nothing.
    assert len(await messages(await tiny.start_call("emit", arguments={"messages": told}, modern=True))) == 1
    await tiny.call("emit", arguments={"messages": [{**told[0], "params": {"_meta": {key: "1"}}}]}, modern=True)
    # The one in the spelling of peers that keep ids as text.
    assert (await stream.next())["params"] == {"_meta": {key: "mine"}}


async def test_subscriptions_take_no_place_of_calls_and_are_bounded() -> None:
    made = client("tiny.py", pending=1, listens=2)
    streams = [await subscribe(made) for _ in range(2)]
    with pytest.raises(GateError) as caught:
        await subscribe(made)
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert await made.pid(modern=True)
    await streams[0].answer.aclose()
    await subscribe(made)
    await made.upstream.aclose()


async def test_a_process_with_a_subscription_is_not_idle_but_gives_way(tiny: Client) -> None:
    made = client("tiny.py", links=1)
    stream = await subscribe(made)
    pid = await made.pid(modern=True)
    made.clock.at += 1000
    made.upstream.sweep()
    assert await made.pid(modern=True) == pid
    assert await made.pid(owner=ALICE)
    with pytest.raises(GateError) as caught:
        await stream.next()
    assert caught.value.code is ErrorCode.UPSTREAM_BROKEN
    await until(lambda: len(made.upstream._lives) == 1, "too many")
    await made.upstream.aclose()
