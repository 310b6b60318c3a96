"""What every SessionStore does (DESIGN decision 6)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contracts.stores import AGENT, ALICE, NOW, PRINCIPAL, TARGETS, Stores, open_stores, race, session
from twogate.config.store_url import is_postgresql
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey, UserId
from twogate.core.session import Session
from twogate.stores.sql.sessions import KEEP_EXPIRED

WIDER = TARGETS | {"git.git_push"}


async def test_the_first_declaration_of_a_task_stores_the_candidate(stores: Stores) -> None:
    candidate = session("s1", principal=PrincipalKey("acme", "https://as.example", "builder", ALICE))
    assert await stores.sessions.open(candidate, AGENT, NOW) == candidate
    assert await stores.sessions.get("s1") == candidate


async def test_the_same_task_again_gives_the_same_session_deadline_and_targets(stores: Stores) -> None:
    first = await stores.sessions.open(session("s1"), AGENT, NOW)
    again = await stores.sessions.open(session("s2", targets=WIDER, start=NOW + 800), AGENT, NOW + 800)
    assert again == first
    assert await stores.sessions.get("s2") is None


async def test_another_task_is_refused_until_the_deadline_of_the_first(stores: Stores) -> None:
    first = await stores.sessions.open(session("s1"), AGENT, NOW)
    before = first.deadline - 1
    with pytest.raises(GateError) as refused:
        await stores.sessions.open(session("s2", "release", start=before), AGENT, before)
    assert refused.value.code is ErrorCode.TASK_LIMIT
    assert await stores.sessions.get("s2") is None
    opened = await stores.sessions.open(session("s3", "release", start=first.deadline), AGENT, first.deadline)
    assert opened.id == "s3"


async def test_an_agent_may_have_as_many_tasks_at_once_as_its_registration_says(stores: Stores) -> None:
    agent = msgspec.structs.replace(AGENT, tasks=("a", "b", "c"), concurrent_tasks=2)
    await stores.sessions.open(session("s1", "a"), agent, NOW)
    await stores.sessions.open(session("s2", "b"), agent, NOW)
    with pytest.raises(GateError) as refused:
        await stores.sessions.open(session("s3", "c"), agent, NOW)
    assert refused.value.code is ErrorCode.TASK_LIMIT


async def test_a_task_that_the_agent_does_not_list_is_refused(stores: Stores) -> None:
    with pytest.raises(GateError) as refused:
        await stores.sessions.open(session("s1", "administer"), AGENT, NOW)
    assert refused.value.code is ErrorCode.TASK_UNKNOWN
    assert await stores.sessions.list_unexpired(NOW) == []


@pytest.mark.parametrize(
    "other",
    [
        PrincipalKey("acme", "https://as.example", "builder", ALICE),
        PrincipalKey("acme", "https://as.example", "builder", UserId("https://as.example", "alice")),
    ],
    ids=["user", "the user's issuer"],
)
async def test_principals_that_differ_in_one_part_have_sessions_of_their_own(
    stores: Stores, other: PrincipalKey
) -> None:
    await stores.sessions.open(session("s0", principal=PRINCIPAL), AGENT, NOW)
    third = UserId("https://idp.example", "bob")
    await stores.sessions.open(session("s1", principal=msgspec.structs.replace(PRINCIPAL, user=third)), AGENT, NOW)
    opened = await stores.sessions.open(session("s2", "release", other), AGENT, NOW)
    assert (opened.id, opened.principal) == ("s2", other)


async def test_an_agent_holds_no_second_task_by_way_of_another_issuer(stores: Stores) -> None:
    other = msgspec.structs.replace(PRINCIPAL, issuer="https://other.example")
    first = await stores.sessions.open(session("s0"), AGENT, NOW)
    with pytest.raises(GateError) as refused:
        await stores.sessions.open(session("s1", "release", other), AGENT, NOW)
    assert refused.value.code is ErrorCode.TASK_LIMIT
    # The same task adds nothing, so each issuer's principal has a session of its own for it.
    opened = await stores.sessions.open(session("s2", first.task, other), AGENT, NOW)
    assert (opened.id, opened.principal) == ("s2", other)
    assert await stores.sessions.open(session("s3"), AGENT, NOW) == first


@pytest.mark.parametrize("user", [UserId("", ""), UserId("", "alice"), UserId("https://idp.example", "")])
async def test_a_user_without_issuer_or_subject_is_refused_since_it_could_pass_for_no_user(
    stores: Stores, user: UserId
) -> None:
    with pytest.raises(GateError) as refused:
        await stores.sessions.open(session("s1", principal=msgspec.structs.replace(PRINCIPAL, user=user)), AGENT, NOW)
    assert refused.value.code is ErrorCode.CLAIM_INVALID


async def test_ending_a_session_keeps_its_first_moment_and_everything_else(stores: Stores) -> None:
    opened = await stores.sessions.open(session("s1"), AGENT, NOW)
    ended = msgspec.structs.replace(opened, ended_at=NOW + 5)
    assert await stores.sessions.end("s1", NOW + 5) == ended
    assert await stores.sessions.end("s1", NOW + 9) == ended
    assert await stores.sessions.get("s1") == ended


async def test_ending_a_session_frees_neither_its_task_nor_its_place(stores: Stores) -> None:
    await stores.sessions.open(session("s1"), AGENT, NOW)
    await stores.sessions.end("s1", NOW + 5)
    with pytest.raises(GateError) as same:
        await stores.sessions.open(session("s2", start=NOW + 6), AGENT, NOW + 6)
    assert same.value.code is ErrorCode.SESSION_ENDED
    with pytest.raises(GateError) as other:
        await stores.sessions.open(session("s3", "release", start=NOW + 6), AGENT, NOW + 6)
    assert other.value.code is ErrorCode.TASK_LIMIT


async def test_ending_an_unknown_session_says_none_and_an_expired_one_stays_as_it_is(stores: Stores) -> None:
    opened = await stores.sessions.open(session("s1"), AGENT, NOW)
    assert await stores.sessions.end("nobody", NOW) is None
    assert await stores.sessions.end("s1", opened.deadline) == opened
    assert await stores.sessions.get("s1") == opened


async def test_the_unexpired_list_holds_ended_sessions_and_leaves_out_expired_and_other_tenants(stores: Stores) -> None:
    def of(tenant: str, user: str) -> PrincipalKey:
        return PrincipalKey(tenant, "https://as.example", "builder", UserId("https://idp.example", user))

    other = msgspec.structs.replace(AGENT, id=msgspec.structs.replace(AGENT.id, tenant="umbrella"))
    late = await stores.sessions.open(session("s-late", principal=of("acme", "a"), start=NOW + 1), AGENT, NOW)
    early = await stores.sessions.open(session("s-early", principal=of("acme", "b")), AGENT, NOW)
    foreign = await stores.sessions.open(session("s-foreign", principal=of("umbrella", "a")), other, NOW)
    await stores.sessions.open(session("s-short", principal=of("acme", "c"), lifetime=10), AGENT, NOW)
    ended = await stores.sessions.end("s-early", NOW + 2)
    assert ended == msgspec.structs.replace(early, ended_at=NOW + 2)
    assert await stores.sessions.list_unexpired(NOW + 10) == [ended, foreign, late]
    assert await stores.sessions.list_unexpired(NOW + 10, "acme") == [ended, late]
    assert await stores.sessions.list_unexpired(late.deadline) == []


async def test_the_newest_live_sessions_of_a_tenant_are_told_and_counted(stores: Stores) -> None:
    for number in range(3):
        whose = PrincipalKey("acme", "https://as.example", "builder", UserId("i", str(number)))
        made = session(f"s{number}", principal=whose, start=NOW + number)
        await stores.sessions.open(made, AGENT, NOW)
    await stores.sessions.end("s1", NOW + 5)
    assert [one.id for one in await stores.sessions.newest(NOW + 5, "acme", 10)] == ["s2", "s0"]
    assert [one.id for one in await stores.sessions.newest(NOW + 5, "acme", 1)] == ["s2"]
    assert await stores.sessions.count(NOW + 5, "acme") == 2
    assert await stores.sessions.count(NOW + 5, "globex") == 0
    assert await stores.sessions.newest(NOW + 9999, "acme", 10) == []


async def test_an_id_that_is_taken_is_refused_and_changes_nothing(stores: Stores) -> None:
    first = await stores.sessions.open(session("s1"), AGENT, NOW)
    stranger = msgspec.structs.replace(PRINCIPAL, user=ALICE)
    with pytest.raises(GateError) as refused:
        await stores.sessions.open(session("s1", "release", stranger), AGENT, NOW)
    assert refused.value.code is ErrorCode.SESSION_CONFLICT
    assert await stores.sessions.list_unexpired(NOW) == [first]


@pytest.mark.parametrize(
    "candidate",
    [
        session("s1", principal=PrincipalKey("umbrella", "https://as.example", "builder", None)),
        session("s1", principal=PrincipalKey("acme", "https://as.example", "stranger", None)),
        session("s1", start=NOW - 900),
        msgspec.structs.replace(session("s1"), ended_at=NOW),
    ],
    ids=["another tenant's", "another agent's", "expired", "ended"],
)
async def test_a_candidate_that_is_no_live_session_of_the_agent_is_our_own_mistake(
    stores: Stores, candidate: Session
) -> None:
    with pytest.raises(ValueError, match="candidate"):
        await stores.sessions.open(candidate, AGENT, NOW)
    assert await stores.sessions.list_unexpired(NOW - 900) == []


@pytest.mark.parametrize("name", ["' OR 1=1 --", "naïve ☃", " ", "%", "S1"])
async def test_ids_are_compared_byte_for_byte(stores: Stores, name: str) -> None:
    await stores.sessions.open(session("s1"), AGENT, NOW)
    assert await stores.sessions.get(name) is None
    stranger = msgspec.structs.replace(PRINCIPAL, user=ALICE)
    await stores.sessions.open(session(name, principal=stranger), AGENT, NOW)
    found = await stores.sessions.get(name)
    assert found is not None
    assert found.id == name


async def test_an_id_with_a_nul_is_told_apart_or_refused_but_never_cut(stores: Stores) -> None:
    await stores.sessions.open(session("s1"), AGENT, NOW)
    if is_postgresql(stores.url):  # it has no such text
        with pytest.raises(GateError) as refused:
            await stores.sessions.get("s1\x00")
        assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    else:
        assert await stores.sessions.get("s1\x00") is None


async def test_an_id_that_is_no_valid_unicode_is_refused(stores: Stores) -> None:
    with pytest.raises(GateError) as refused:
        await stores.sessions.get("\ud800")
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED


async def test_fifty_parallel_declarations_of_different_tasks_give_one_session(stores: Stores) -> None:
    agent = msgspec.structs.replace(AGENT, tasks=tuple(f"task-{n}" for n in range(50)))
    results = await asyncio.gather(
        *(stores.sessions.open(session(f"s{n}", f"task-{n}"), agent, NOW) for n in range(50)), return_exceptions=True
    )
    refusals = [result for result in results if isinstance(result, GateError)]
    assert [refusal.code for refusal in refusals] == [ErrorCode.TASK_LIMIT] * 49
    assert len(await stores.sessions.list_unexpired(NOW)) == 1


async def test_fifty_parallel_declarations_of_one_task_give_the_same_session(stores: Stores) -> None:
    results = await asyncio.gather(*(stores.sessions.open(session(f"s{n}"), AGENT, NOW) for n in range(50)))
    assert len({result.id for result in results}) == 1
    assert len(await stores.sessions.list_unexpired(NOW)) == 1


async def test_two_processes_declaring_tasks_at_once_get_one_session(stores: Stores) -> None:
    results = await race(stores.url, "open")
    kept = await stores.sessions.list_unexpired(NOW)
    assert len(kept) == 1
    assert sorted(map(str, results)) == sorted([kept[0].id, *[ErrorCode.TASK_LIMIT.value] * 49])


async def test_sessions_survive_reopening(stores: Stores) -> None:
    await stores.sessions.open(session("s1"), AGENT, NOW)
    ended = await stores.sessions.end("s1", NOW + 5)
    async with open_stores(stores.url) as again:
        assert await again.sessions.get("s1") == ended
        with pytest.raises(GateError) as refused:
            await again.sessions.open(session("s2", start=NOW + 6), AGENT, NOW + 6)
        assert refused.value.code is ErrorCode.SESSION_ENDED


async def test_expired_sessions_stay_known_for_a_day_and_are_then_forgotten(stores: Stores) -> None:
    first = await stores.sessions.open(session("s1"), AGENT, NOW)
    day_later = first.deadline + KEEP_EXPIRED - 1
    second = await stores.sessions.open(session("s2", start=day_later), AGENT, day_later)
    assert await stores.sessions.get("s1") == first
    stranger = msgspec.structs.replace(PRINCIPAL, user=ALICE)
    await stores.sessions.open(session("s3", principal=stranger, start=day_later + 1), AGENT, day_later + 1)
    assert await stores.sessions.get("s1") is None
    assert await stores.sessions.get("s2") == second


async def test_a_session_that_cannot_be_announced_is_not_opened(stores: Stores) -> None:
    async def fail() -> None:
        raise GateError(ErrorCode.AUDIT_UNAVAILABLE)

    with pytest.raises(GateError) as refusal:
        await stores.sessions.open(session("s1"), AGENT, NOW, fail)
    assert refusal.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert await stores.sessions.list_unexpired(NOW) == []
