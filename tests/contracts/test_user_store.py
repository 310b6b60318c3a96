"""What every store of people does: users, logins, links, passkeys, counts of failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.stores import NOW, Stores
from twogate.core.approval import Duty
from twogate.flows.authserver.links import Link, LinkPurpose
from twogate.flows.authserver.lockout import FORGET_AFTER, Counter
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.passkeys import Passkey
from twogate.flows.authserver.people import User
from twogate.flows.authserver.users import Identity
from twogate.stores.sql.links import SqlLinkStore
from twogate.stores.sql.login_failures import SqlFailureStore
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.tables import grants, login_failures, logins
from twogate.stores.sql.users import SqlUserStore

ALICE = User("acme", "u-alice", "alice", "Alice", ("reader",), ("finance",), created_at=NOW)
BOB = User("acme", "u-bob", "bob", created_at=NOW)
CAROL = User("globex", "u-alice", "alice", provider="https://idp.example", created_at=NOW)
IDENTITY = Identity("https://idp.example", "carol-1")
LOGIN = Login("acme", "u-alice", "passkey", NOW, None, NOW + 900)
LINK = Link("aa" * 32, "acme", "u-alice", LinkPurpose.WELCOME, NOW + 600)
KEY = Passkey("credential-1", "acme", "u-alice", "public", 0, "Laptop", NOW)
LATER = NOW + 3600
DIGEST, OTHER, THIRD = "11" * 32, "22" * 32, "33" * 32
TRIES = Counter("44" * 32, 2, 60)
SHARED = Counter("55" * 32, 1, 30)


@pytest.fixture
async def engine(stores: Stores) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(stores.url)
    yield opened
    await opened.dispose()


@pytest.fixture
async def people(engine: AsyncEngine) -> SqlUserStore:
    store = SqlUserStore(engine)
    assert await store.add(ALICE) is True
    return store


async def test_people_are_kept_whole_and_found_by_subject_and_name(people: SqlUserStore) -> None:
    assert await people.user("acme", "u-alice") == ALICE
    assert await people.by_name("acme", "alice") == ALICE
    assert await people.user("globex", "u-alice") is None
    assert await people.by_name("acme", "u-alice") is None


async def test_a_name_belongs_to_one_person_of_a_tenant(people: SqlUserStore) -> None:
    assert await people.add(msgspec.structs.replace(BOB, name="alice")) is False
    assert await people.add(msgspec.structs.replace(BOB, subject="u-alice")) is False
    assert await people.add(BOB) is True
    assert await people.add(CAROL, IDENTITY) is True
    assert await people.list() == [ALICE, BOB, CAROL]
    assert await people.list("globex") == [CAROL]


async def test_an_identity_leads_to_one_person_of_each_tenant(people: SqlUserStore) -> None:
    assert await people.add(CAROL, IDENTITY) is True
    twin = msgspec.structs.replace(CAROL, subject="u-other", name="other")
    assert await people.add(twin, IDENTITY) is False
    assert await people.user("globex", "u-other") is None
    assert await people.by_identity(IDENTITY, "globex") == CAROL
    assert await people.by_identity(IDENTITY, "acme") is None
    assert await people.by_identity(Identity(IDENTITY.issuer, "carol-2"), "globex") is None
    here = msgspec.structs.replace(CAROL, tenant="acme", subject="u-carol", name="carol")
    assert await people.add(here, IDENTITY) is True
    assert await people.by_identity(IDENTITY, "acme") == here
    assert await people.identities("acme", "u-carol") == [IDENTITY]
    assert await people.identities("acme", "u-alice") == []


async def test_of_parallel_first_logins_of_one_identity_one_adds_the_person(people: SqlUserStore) -> None:
    twins = [msgspec.structs.replace(CAROL, subject=f"u-{n}", name=f"carol{n}") for n in range(12)]
    added = await asyncio.gather(*(people.add(twin, IDENTITY) for twin in twins))
    assert sorted(added) == [False] * 11 + [True]
    assert await people.list("globex") == [twins[added.index(True)]]


async def test_what_a_provider_tells_changes_nothing_that_an_operator_gave(people: SqlUserStore) -> None:
    await people.set_password_hash("acme", "u-alice", "hash")
    told = msgspec.structs.replace(ALICE, display_name="A.", groups=())
    more = {"name": "mallory", "provider": "https://idp.example", "roles": ("admin",), "duties": (Duty.APPROVER,)}
    await people.describe(msgspec.structs.replace(told, **more))
    assert await people.user("acme", "u-alice") == told
    assert await people.password_hash("acme", "u-alice") == "hash"


async def test_an_operator_changes_what_a_person_is_called_and_may_do_and_nothing_else(people: SqlUserStore) -> None:
    given = msgspec.structs.replace(ALICE, display_name="A.", roles=("analyst",), groups=(), duties=(Duty.OPERATOR,))
    await people.change(msgspec.structs.replace(given, name="mallory", provider="https://idp.example"))
    assert await people.user("acme", "u-alice") == given


async def test_a_hash_is_replaced_only_as_it_was_read(people: SqlUserStore) -> None:
    assert await people.password_hash("acme", "u-alice") == ""
    assert await people.password_hash("acme", "nobody") == ""
    assert await people.set_password_hash("acme", "u-alice", "one") is True
    assert await people.set_password_hash("acme", "u-alice", "two", instead_of="other") is False
    assert await people.set_password_hash("acme", "u-alice", "two", instead_of="one") is True
    assert await people.password_hash("acme", "u-alice") == "two"
    assert await people.set_password_hash("acme", "nobody", "x") is False


async def test_disabling_ends_everything_of_one_person_and_of_nobody_else(
    people: SqlUserStore, engine: AsyncEngine, stores: Stores
) -> None:
    await people.add(BOB)
    browsers, links, registry = SqlLoginStore(engine), SqlLinkStore(engine), SqlRegistryStore(engine)
    for digest, subject in ((DIGEST, "u-alice"), (OTHER, "u-bob")):
        login = msgspec.structs.replace(LOGIN, subject=subject)
        assert await browsers.add(digest, login, LATER, NOW, None) is True
        await links.add(msgspec.structs.replace(LINK, digest=digest, subject=subject), NOW)
        await _add_grant(engine, f"grant of {subject}", subject)
    before = await stores.seen()
    assert await people.disable("acme", "u-alice", LATER, NOW) is True
    assert await stores.seen() > before
    assert await people.user("acme", "u-alice") == msgspec.structs.replace(ALICE, disabled=True)
    assert await browsers.get(DIGEST, NOW) is None
    assert await browsers.get(OTHER, NOW) is not None
    assert await links.redeem(DIGEST, THIRD, LATER, NOW) is None
    assert await links.redeem(OTHER, THIRD, LATER, NOW) is not None
    revoked = (await registry.load()).revoked
    assert revoked == {("user", "u-alice"), ("grant", "grant of u-alice")}
    async with engine.connect() as connection:
        alive = await connection.execute(select(grants.c.id).where(grants.c.revoked_at.is_(None)))
        assert alive.scalars().all() == ["grant of u-bob"]
    assert await people.disable("acme", "u-alice", LATER, NOW) is False


async def test_enabling_lets_the_person_in_and_brings_nothing_back(
    people: SqlUserStore, engine: AsyncEngine, stores: Stores
) -> None:
    browsers = SqlLoginStore(engine)
    await browsers.add(DIGEST, LOGIN, LATER, NOW, None)
    await _add_grant(engine, "grant", "u-alice")
    assert await people.enable("acme", "u-alice") is False
    await people.disable("acme", "u-alice", LATER, NOW)
    before = await stores.seen()
    assert await people.enable("acme", "u-alice") is True
    assert await stores.seen() > before
    assert await people.user("acme", "u-alice") == ALICE
    assert await browsers.get(DIGEST, NOW) is None
    assert (await SqlRegistryStore(engine).load()).revoked == {("grant", "grant")}


async def test_a_login_is_kept_whole_until_it_expires_or_ends(people: SqlUserStore, engine: AsyncEngine) -> None:
    browsers = SqlLoginStore(engine)
    upstream = Login("acme", "u-alice", "upstream", NOW, "grant-1", None)
    assert await browsers.add(DIGEST, LOGIN, LATER, NOW, None) is True
    assert await browsers.add(OTHER, upstream, LATER, NOW + 5, None) is True
    assert await browsers.get(DIGEST, LATER - 1) == LOGIN
    assert await browsers.get(OTHER, NOW) == upstream
    assert await browsers.get(DIGEST, LATER) is None
    assert await people.last_logins() == {("acme", "u-alice"): NOW + 5}
    assert await people.last_logins("globex") == {}
    assert await browsers.end(DIGEST) is True
    assert await browsers.end(DIGEST) is False
    assert await browsers.get(DIGEST, NOW) is None


async def test_a_login_replaces_that_of_the_same_browser(people: SqlUserStore, engine: AsyncEngine) -> None:
    browsers = SqlLoginStore(engine)
    await browsers.add(DIGEST, LOGIN, LATER, NOW, None)
    assert await browsers.add(OTHER, LOGIN, LATER, NOW, DIGEST) is True
    assert await browsers.get(DIGEST, NOW) is None
    assert await browsers.get(OTHER, NOW) == LOGIN


async def test_nobody_disabled_or_unknown_is_logged_in(people: SqlUserStore, engine: AsyncEngine) -> None:
    browsers = SqlLoginStore(engine)
    await browsers.add(DIGEST, LOGIN, LATER, NOW, None)
    await people.disable("acme", "u-alice", LATER, NOW)
    assert await browsers.add(OTHER, LOGIN, LATER, NOW, DIGEST) is False
    assert await browsers.add(THIRD, Login("acme", "nobody", "password", NOW), LATER, NOW, None) is False
    assert [await browsers.get(digest, NOW) for digest in (DIGEST, OTHER, THIRD)] == [None] * 3


async def test_every_login_of_a_person_ends_but_the_one_to_keep(people: SqlUserStore, engine: AsyncEngine) -> None:
    await people.add(BOB)
    browsers = SqlLoginStore(engine)
    await browsers.add(DIGEST, LOGIN, LATER, NOW, None)
    await browsers.add(OTHER, LOGIN, LATER, NOW, None)
    await browsers.add(THIRD, msgspec.structs.replace(LOGIN, subject="u-bob"), LATER, NOW, None)
    assert await browsers.end_all("acme", "u-alice", OTHER) == 1
    assert [await browsers.get(digest, NOW) is None for digest in (DIGEST, OTHER, THIRD)] == [True, False, False]
    assert await browsers.end_all("acme", "u-alice", None) == 1
    assert await browsers.get(THIRD, NOW) is not None


async def test_expired_logins_are_deleted_after_a_while(people: SqlUserStore, engine: AsyncEngine) -> None:
    browsers = SqlLoginStore(engine)
    for number in range(64):
        await browsers.add(f"{number:064x}", LOGIN, NOW + 1, NOW + number // 63 * 10, None)
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(logins))).scalar_one() == 0


async def test_a_link_is_used_once_by_one_of_many(people: SqlUserStore, engine: AsyncEngine) -> None:
    links = SqlLinkStore(engine)
    await links.add(LINK, NOW)
    setups = [f"{number:064x}" for number in range(40)]
    found = await asyncio.gather(*(links.redeem(LINK.digest, setup, NOW + 900, NOW) for setup in setups))
    (setup,) = [one for one in found if one is not None]
    assert (setup.subject, setup.purpose, setup.ends_at) == ("u-alice", LinkPurpose.WELCOME, NOW + 900)
    assert await links.setup(setup.digest, NOW + 899) == setup
    assert await links.setup(setup.digest, NOW + 900) is None
    assert await links.setup("", NOW) is None


async def test_an_unused_link_is_no_setup_and_an_expired_one_is_nothing(
    people: SqlUserStore, engine: AsyncEngine
) -> None:
    links = SqlLinkStore(engine)
    await links.add(LINK, NOW)
    assert await links.setup("", NOW) is None
    assert await links.setup(LINK.digest, NOW) is None
    assert await links.redeem(LINK.digest, DIGEST, LATER, LINK.expires_at) is None
    assert await links.redeem(OTHER, DIGEST, LATER, NOW) is None
    assert await links.redeem(LINK.digest, DIGEST, LATER, LINK.expires_at - 1) is not None


async def test_a_step_is_taken_once_by_one_of_many(people: SqlUserStore, engine: AsyncEngine) -> None:
    links = SqlLinkStore(engine)
    await links.add(LINK, NOW)
    setup = await links.redeem(LINK.digest, DIGEST, NOW + 900, NOW)
    assert setup is not None
    taken = await asyncio.gather(*(links.step(setup, LinkPurpose.PASSKEY, NOW) for _ in range(20)))
    assert sorted(taken) == [False] * 19 + [True]
    left = msgspec.structs.replace(setup, purpose=LinkPurpose.PASSKEY)
    assert await links.setup(DIGEST, NOW) == left
    assert await links.step(left, LinkPurpose.DONE, NOW + 900) is False
    assert await links.step(left, LinkPurpose.DONE, NOW) is True


async def test_a_new_link_voids_those_before_and_nobody_elses(people: SqlUserStore, engine: AsyncEngine) -> None:
    await people.add(BOB)
    links = SqlLinkStore(engine)
    bobs = msgspec.structs.replace(LINK, digest=OTHER, subject="u-bob")
    for link in (LINK, bobs, msgspec.structs.replace(LINK, digest=DIGEST)):
        await links.add(link, NOW)
    assert await links.redeem(LINK.digest, "a1" * 32, LATER, NOW) is None
    assert await links.redeem(DIGEST, "a2" * 32, LATER, NOW) is not None
    assert await links.redeem(OTHER, "a3" * 32, LATER, NOW) is not None


async def test_passkeys_are_kept_whole_and_only_once(people: SqlUserStore, engine: AsyncEngine) -> None:
    await people.add(BOB)
    keys = SqlPasskeyStore(engine)
    assert await keys.add(KEY, 5) is True
    assert await keys.get(KEY.credential_id) == KEY
    assert await keys.add(msgspec.structs.replace(KEY, subject="u-bob", public_key="mine"), 5) is False
    assert await keys.get(KEY.credential_id) == KEY
    assert await keys.list("acme", "u-alice") == [KEY]
    assert await keys.list("acme", "u-bob") == []


async def test_nobody_has_more_passkeys_than_allowed_however_fast(people: SqlUserStore, engine: AsyncEngine) -> None:
    keys = SqlPasskeyStore(engine)
    many = [msgspec.structs.replace(KEY, credential_id=f"c{number}") for number in range(12)]
    added = await asyncio.gather(*(keys.add(key, 5) for key in many))
    assert sorted(added) == [False] * 7 + [True] * 5


async def test_a_disabled_person_gets_no_passkey(people: SqlUserStore, engine: AsyncEngine) -> None:
    await people.disable("acme", "u-alice", LATER, NOW)
    assert await SqlPasskeyStore(engine).add(KEY, 5) is False


async def test_a_count_only_grows(people: SqlUserStore, engine: AsyncEngine) -> None:
    keys = SqlPasskeyStore(engine)
    await keys.add(KEY, 5)
    assert await keys.used(KEY.credential_id, 0, NOW + 1) is True
    assert await keys.used(KEY.credential_id, 3, NOW + 2) is True
    assert [await keys.used(KEY.credential_id, count, NOW + 3) for count in (3, 2, 0)] == [False] * 3
    assert await keys.get(KEY.credential_id) == msgspec.structs.replace(KEY, sign_count=3, last_used_at=NOW + 2)
    raced = await asyncio.gather(*(keys.used(KEY.credential_id, 4, NOW + 4) for _ in range(10)))
    assert sorted(raced) == [False] * 9 + [True]
    assert await keys.used("unknown", 1, NOW) is False


async def test_only_its_own_person_removes_a_passkey(people: SqlUserStore, engine: AsyncEngine) -> None:
    keys = SqlPasskeyStore(engine)
    await keys.add(KEY, 5)
    assert await keys.remove("acme", "u-bob", KEY.credential_id) is False
    assert await keys.remove("globex", "u-alice", KEY.credential_id) is False
    assert await keys.remove("acme", "u-alice", KEY.credential_id) is True
    assert await keys.remove("acme", "u-alice", KEY.credential_id) is False


async def test_tries_are_free_then_cost_ever_more(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures, now = SqlFailureStore(engine), NOW
    waits: list[int] = []
    for _ in range(9):
        assert await failures.begin(TRIES, (), now) == 0
        waits.append(await failures.begin(TRIES, (), now) if len(waits) >= 2 else 0)
        now += waits[-1]
    assert waits == [0, 0, 2, 4, 8, 16, 32, 60, 60]


async def test_a_try_that_must_wait_is_not_counted(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures = SqlFailureStore(engine)
    for _ in range(3):
        assert await failures.begin(TRIES, (), NOW) == 0
    assert [await failures.begin(TRIES, (), NOW) for _ in range(4)] == [2] * 4
    assert await failures.failures([TRIES.digest], NOW) == {TRIES.digest: 3}


async def test_of_many_tries_at_once_only_the_free_ones_begin(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures = SqlFailureStore(engine)
    waits = await asyncio.gather(*(failures.begin(TRIES, (), NOW) for _ in range(25)))
    assert waits.count(0) == TRIES.free + 1


async def test_what_is_only_checked_blocks_but_is_not_counted(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures = SqlFailureStore(engine)
    await failures.failed([SHARED, SHARED], NOW)
    assert await failures.begin(TRIES, (SHARED,), NOW) == 2
    assert await failures.failures([TRIES.digest, SHARED.digest], NOW) == {SHARED.digest: 2}
    assert await failures.begin(TRIES, (SHARED,), NOW + 2) == 0
    assert await failures.failures([SHARED.digest], NOW) == {SHARED.digest: 2}


async def test_failures_counted_by_many_at_once_are_all_counted(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures = SqlFailureStore(engine)
    orders = [[TRIES, SHARED], [SHARED, TRIES]] * 10
    await asyncio.gather(*(failures.failed(order, NOW) for order in orders))
    assert await failures.failures([TRIES.digest, SHARED.digest], NOW) == {TRIES.digest: 20, SHARED.digest: 20}


async def test_success_forgets_and_remembers(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures = SqlFailureStore(engine)
    await failures.begin(TRIES, (), NOW)
    await failures.succeeded(TRIES.digest, [DIGEST, OTHER], LATER, NOW)
    assert await failures.failures([TRIES.digest, DIGEST, OTHER], NOW) == {DIGEST: 0, OTHER: 0}
    await failures.succeeded(TRIES.digest, [DIGEST], LATER + 5, NOW)
    assert await failures.failures([DIGEST, OTHER], LATER) == {DIGEST: 0}


async def test_failures_are_forgotten_a_day_after_the_last(people: SqlUserStore, engine: AsyncEngine) -> None:
    failures = SqlFailureStore(engine)
    for _ in range(3):
        await failures.begin(TRIES, (), NOW)
    assert await failures.failures([TRIES.digest], NOW + FORGET_AFTER) == {}
    assert await failures.begin(TRIES, (), NOW + FORGET_AFTER) == 0
    assert await failures.failures([TRIES.digest], NOW + FORGET_AFTER) == {TRIES.digest: 1}
    await failures.failed([SHARED], NOW + 3 * FORGET_AFTER)
    async with engine.connect() as connection:
        kept = await connection.execute(select(login_failures.c.digest))
        assert kept.scalars().all() == [SHARED.digest]


async def _add_grant(engine: AsyncEngine, grant_id: str, subject: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            insert(grants).values(
                id=grant_id,
                tenant="acme",
                client_id="web",
                subject=subject,
                authorization="{}",
                proof_key="",
                handle=f"handle of {grant_id}",
                current="",
                previous="",
                rotated_at=0,
                retry_answer="",
                generation=0,
                created_at=NOW,
                last_used_at=NOW,
                expires_at=LATER,
                revoked_at=None,
            )
        )
