"""What only Redis and Valkey have: the script that counts, keys that expire, and a server that misbehaves."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatelab import FakeClock
from harness.tls_relay import make_certificate, terminating
from harness.valkey import Valkey, running_valkey
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.config import parse_settings
from twogate.config.shared_url import shared_address
from twogate.core.errors import ErrorCode, GateError
from twogate.core.limits import TokenBuckets
from twogate.core.principal import AgentId
from twogate.flows.environment import Clock
from twogate.flows.gateway.limit import Bucket, CallRates, Rate
from twogate.stores.shared.opening import open_shared
from twogate.stores.shared.redis_buckets import MARGIN, TAKE, RedisBuckets
from twogate.stores.shared.redis_link import COMMAND_TIMEOUT, CONNECTIONS, PAUSE, RECHECK, RedisLink, Script
from twogate.stores.shared.redis_replay import RedisReplayStore

# The time comes with the buckets' numbers, as the last argument.
BY_THE_TESTS_CLOCK = Script("local now = tonumber(table.remove(ARGV))" + TAKE)
START = 1_800_000_000_000_000
ALICE, BOB, ABROAD = AgentId("acme", "alice"), AgentId("acme", "bob"), AgentId("globex", "alice")


@asynccontextmanager
async def linked(valkey: Valkey, clock: Clock | None = None) -> AsyncIterator[RedisLink]:
    link = RedisLink(shared_address(valkey.url), clock or SystemClock(), password=valkey.password_file)
    try:
        yield link
    finally:
        await link.aclose()


@pytest.fixture
async def link(valkey: Valkey) -> AsyncIterator[RedisLink]:
    async with linked(valkey) as made:
        yield made


def deployment() -> str:
    return f"https://{uuid4()}.example"


async def answers(link: RedisLink) -> bool:
    try:
        await link.check()
    except GateError:
        return False
    return True


class Timed(RedisLink):
    """Brings the test's time along; `microseconds` is what it is."""

    microseconds = START

    async def run(self, script: Script, keys: tuple[str, ...], *arguments: str | float) -> object:
        return await super().run(script, keys, *arguments, self.microseconds)


@asynccontextmanager
async def timed(valkey: Valkey) -> AsyncIterator[tuple[Timed, RedisBuckets]]:
    link = Timed(shared_address(valkey.url), SystemClock(), password=valkey.password_file)
    try:
        yield link, RedisBuckets(link, deployment(), BY_THE_TESTS_CLOCK)
    finally:
        await link.aclose()


# Up to 127 a second no step of a bucket ends on half a microsecond, where the two may round apart.
RATES = st.builds(Rate, st.integers(1, 127), st.integers(1, 6))
STEPS = st.lists(st.tuples(st.integers(0, 400_000), st.sampled_from("ab")), min_size=1, max_size=25)


class TestBuckets:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rate=RATES, steps=STEPS)
    def test_a_bucket_gives_what_one_in_memory_gives(
        self, valkey: Valkey, rate: Rate, steps: list[tuple[int, str]]
    ) -> None:
        async def compare() -> None:
            memory = TokenBuckets(rate=rate.rate, burst=rate.burst)
            async with timed(valkey) as (link, shared):
                for later, name in steps:
                    link.microseconds += later
                    expected = memory.take(name, (link.microseconds - START) / 1_000_000)
                    taken = await shared.take([Bucket(name, rate)])
                    assert (taken == 0) == (expected == 0)
                    # Up to a whole microsecond, so that waiting as long as told is enough.
                    assert taken == pytest.approx(expected, abs=1.1e-6)

        asyncio.run(compare())

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rates=st.tuples(*[st.none() | RATES] * 3).filter(any),
        steps=st.lists(
            st.tuples(st.integers(0, 400_000), st.sampled_from([ALICE, BOB, ABROAD]), st.sampled_from("ab")),
            min_size=1,
            max_size=25,
        ),
    )
    def test_the_limits_of_a_call_hold_as_they_do_in_memory(
        self, valkey: Valkey, rates: tuple[Rate | None, ...], steps: list[tuple[int, AgentId, str]]
    ) -> None:
        tool, agent, tenant = rates

        async def compare() -> None:
            async with timed(valkey) as (link, buckets):
                memory = CallRates(tool=tool, agent=agent, tenant=tenant)
                shared = CallRates(tool=tool, agent=agent, tenant=tenant, shared=buckets)
                for later, who, entry in steps:
                    link.microseconds += later
                    expected = memory.take(who, entry, (link.microseconds - START) / 1_000_000)
                    taken = await shared.take_shared(who, entry)
                    assert taken == pytest.approx(expected, abs=1.1e-6)

        asyncio.run(compare())

    async def test_the_servers_clock_counts(self, link: RedisLink) -> None:
        buckets = RedisBuckets(link, deployment())
        rate = Rate(20, 2)
        begun = time.monotonic()
        waits = [await buckets.take([Bucket("a", rate)]) for _ in range(2)]
        assert waits == [0.0, 0.0]
        given = 2
        while wait := await buckets.take([Bucket("a", rate)]):
            assert wait <= 0.05
            await asyncio.sleep(wait)
        assert given + 1 <= 2 + (time.monotonic() - begun) * 20 + 1e-3

    async def test_a_clock_that_is_set_back_frees_nobody_and_holds_nobody_longer(self, valkey: Valkey) -> None:
        async with timed(valkey) as (link, buckets):
            bucket = [Bucket("a", Rate(1, 1))]
            assert await buckets.take(bucket) == 0.0
            link.microseconds -= 3600 * 1_000_000
            assert await buckets.take(bucket) == pytest.approx(1.0, abs=1e-5)
            # Somebody's call of then makes no difference to what is counted from now on.
            link.microseconds += 3600 * 1_000_000 + 1_000_000
            assert await buckets.take(bucket) == 0.0

    async def test_counting_goes_on_where_it_stands_after_a_clock_was_set_back(self, valkey: Valkey) -> None:
        async with timed(valkey) as (link, buckets):
            bucket = [Bucket("a", Rate(1, 2))]
            assert await buckets.take(bucket) == 0.0
            link.microseconds -= 3600 * 1_000_000
            assert await buckets.take(bucket) == 0.0
            link.microseconds += 1_000_000
            assert await buckets.take(bucket) == 0.0
            assert await buckets.take(bucket) == pytest.approx(1.0, abs=1e-5)

    async def test_a_smaller_burst_waits_no_longer_than_for_one_token_and_frees_nobody(self, valkey: Valkey) -> None:
        async with timed(valkey) as (_, buckets):
            for _ in range(50):
                assert await buckets.take([Bucket("a", Rate(1, 50))]) == 0.0
            assert await buckets.take([Bucket("a", Rate(1, 2))]) == pytest.approx(1.0, abs=1e-5)
            assert await buckets.take([Bucket("a", Rate(10, 2))]) == pytest.approx(0.1, abs=1e-5)

    async def test_what_is_full_again_is_forgotten(self, valkey: Valkey, link: RedisLink) -> None:
        before = valkey.every_key()
        await RedisBuckets(link, deployment()).take([Bucket("a", Rate(1, 100)), Bucket("b", Rate(100, 100))])
        left = sorted(int(str(valkey.run("PTTL", key))) for key in valkey.every_key() - before)
        assert MARGIN - 5_000 < left[0] <= MARGIN + 10
        assert MARGIN - 5_000 < left[1] <= MARGIN + 1_000


class TestServer:
    async def test_commands_of_many_callers_take_turns(self, link: RedisLink) -> None:
        buckets = RedisBuckets(link, deployment())
        waits = await asyncio.gather(*(buckets.take([Bucket("a", Rate(1, 50))]) for _ in range(CONNECTIONS * 5)))
        assert waits.count(0.0) == 50

    async def test_a_changed_password_needs_no_restart(self) -> None:
        with running_valkey() as valkey:
            async with linked(valkey) as link:
                await link.check()
                valkey.run("CONFIG", "SET", "requirepass", "trout")
                valkey.password = "trout"
                valkey.password_file.write_text("trout\n")
                valkey.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                # The loop has to see that the connection is gone.
                async with asyncio.timeout(30):
                    while not await answers(link):
                        await asyncio.sleep(0.01)

    async def test_a_user_with_just_the_rights_that_the_guide_names_is_enough(self, valkey: Valkey) -> None:
        rights = ["~twogate:*", "+evalsha", "+eval", "+info", "+select", "+time", "+get", "+set", "+hset", "+hmget"]
        valkey.run("ACL", "SETUSER", "gate", "on", f">{valkey.password}", "+client|setname", *rights)
        place = shared_address(valkey.url.replace("//", "//gate@"))
        link = RedisLink(place, SystemClock(), password=valkey.password_file)
        try:
            await link.check()
            replay = RedisReplayStore(link, deployment(), SystemRng())
            assert await replay.redeem("jti", "a", "b", 1060, 1000) is True
            assert await replay.redeem("jti", "a", "b", 1060, 1000) is False
            assert await RedisBuckets(link, deployment()).take([Bucket("a", Rate(1, 1))]) == 0.0
            for missing in ("-evalsha", "resetkeys", "-hmget"):
                valkey.run("ACL", "SETUSER", "gate", missing)
                with pytest.raises(GateError, match=r"may not run|no permissions"):
                    await replay.redeem("jti", "a", "c", 1060, 1000)
                valkey.run("ACL", "SETUSER", "gate", "reset", "on", f">{valkey.password}", "+client|setname", *rights)
            valkey.run("ACL", "SETUSER", "gate", "-info")
            with pytest.raises(GateError, match="may not run"):
                await link.check()
        finally:
            await link.aclose()
            valkey.run("ACL", "DELUSER", "gate")

    async def test_a_read_only_replica_is_refused(self) -> None:
        with running_valkey() as valkey:
            valkey.run("REPLICAOF", "127.0.0.1", "1")
            async with linked(valkey) as link:
                with pytest.raises(GateError, match="read-only replica"):
                    await RedisReplayStore(link, deployment(), SystemRng()).remember()

    async def test_an_open_connection_asks_again_whether_the_server_evicts(self) -> None:
        clock = FakeClock()
        with running_valkey() as valkey:
            async with linked(valkey, clock) as link:
                buckets = RedisBuckets(link, deployment())
                await buckets.take([Bucket("a", Rate(100, 100))])
                valkey.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
                clock.advance(RECHECK - 1)
                await buckets.take([Bucket("a", Rate(100, 100))])
                clock.advance(1)
                with pytest.raises(GateError, match="noeviction"):
                    await buckets.take([Bucket("a", Rate(100, 100))])

    async def test_after_a_failure_one_call_tries_and_the_others_are_refused_at_once(self) -> None:
        clock = FakeClock()
        with running_valkey() as valkey:
            async with linked(valkey, clock) as link:
                await link.check()
                with valkey.hanging():
                    with pytest.raises(GateError, match="no answer in time"):
                        await link.check()
                    begun = time.monotonic()
                    for _ in range(100):
                        with pytest.raises(GateError, match="not tried again yet"):
                            await link.check()
                    assert time.monotonic() - begun < COMMAND_TIMEOUT
                    clock.advance(PAUSE)
                    refused = await asyncio.gather(*(link.check() for _ in range(20)), return_exceptions=True)
                    told = [error.debug for error in refused if isinstance(error, GateError)]
                    assert len(told) == 20
                    assert sum("not tried again yet" in words for words in told) == 19
                clock.advance(PAUSE)
                await link.check()
                await asyncio.gather(*(link.check() for _ in range(20)))


class Impostor:
    """Speaks the protocol and answers what it is told to."""

    def __init__(self, **answers: bytes) -> None:
        self.answers = {b"INFO": bulk(INFO), b"CLIENT": b"+OK\r\n", b"SELECT": b"+OK\r\n"}
        self.answers |= {name.encode(): answer for name, answer in answers.items()}
        self.running = set[asyncio.Task[None]]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        while (head := await reader.readline()).startswith(b"*"):
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            answer = self.answers.get(words[0])
            if answer is None:
                break
            writer.write(answer)
        writer.close()

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[RedisLink]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = RedisLink(shared_address(f"redis://127.0.0.1:{port}"), SystemClock())
        try:
            yield link
        finally:
            await link.aclose()
            server.close()
            await asyncio.gather(*self.running)


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


INFO = b"run_id:" + b"a" * 40 + b"\r\naof_enabled:0\r\nmaxmemory_policy:noeviction\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b"*2\r\n:1\r\n:1\r\n", b"*2\r\n$4\r\nname\r\n$1\r\n1\r\n", b"-ERR no\r\n",
        b"!!\r\n", b"*2\r\n$4\r\nname\r\n", b"*-1\r\n", b"-MOVED 1 10.0.0.1:6379\r\n", b"", b"-MOVED 1\r\n",
        b"-ASK 1 nowhere\r\n", b"*2\r\n$2\r\n\xff\xfe\r\n:1\r\n", b":x\r\n", b"$-5\r\nx\r\n", b"*x\r\n",
        b":9999999999999999999999\r\n",
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_redeems_nothing_and_lets_no_call_through(answer: bytes) -> None:
    async with Impostor(EVALSHA=answer, EVAL=answer).linked() as link:
        for work in (
            RedisReplayStore(link, deployment(), SystemRng()).redeem("jti", "a", "b", 1060, 1000),
            RedisBuckets(link, deployment()).take([Bucket("a", Rate(1, 1))]),
        ):
            with pytest.raises(GateError) as refused:
                await work
            assert refused.value.code is ErrorCode.SHARED_UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        bulk(b"used_memory:5\r\n"), b"$-1\r\n", b":1\r\n", bulk(INFO.replace(b"noeviction", b"# noeviction-ish")),
        bulk(INFO.replace(b"a" * 40, b"a" * 39)), bulk(INFO.replace(b"aof_enabled:0\r\n", b"")),
    ],
)  # fmt: skip
async def test_a_server_that_does_not_say_whether_it_evicts_is_not_relied_on(answer: bytes) -> None:
    async with Impostor(INFO=answer).linked() as link:
        with pytest.raises(GateError, match="does not say its maxmemory-policy"):
            await link.check()


async def test_texts_of_the_server_are_cut_and_printable() -> None:
    async with Impostor(INFO=b"-ERR \x1b[31m" + b"x" * 5000 + b"\r\n").linked() as link:
        with pytest.raises(GateError) as refused:
            await link.check()
        assert len(refused.value.debug) < 250
        assert refused.value.debug.isprintable()


class TestTls:
    async def test_a_server_is_reached_over_tls_with_its_own_authority_and_only_by_its_name(
        self, valkey: Valkey, tmp_path: Path
    ) -> None:
        ca, server = make_certificate(tmp_path / "good", "localhost")
        other_ca, _ = make_certificate(tmp_path / "other", "localhost")
        async with terminating(valkey.port, server) as port:
            for host, authority, good in (
                ("localhost", ca, True), ("127.0.0.1", ca, False), ("localhost", other_ca, False),
                ("localhost", None, False),
            ):  # fmt: skip
                place = shared_address(f"rediss://{host}:{port}")
                link = RedisLink(place, SystemClock(), password=valkey.password_file, ca=authority)
                try:
                    if good:
                        await link.check()
                        assert await RedisBuckets(link, deployment()).take([Bucket("a", Rate(1, 1))]) == 0.0
                    else:
                        with pytest.raises(GateError, match="CERTIFICATE_VERIFY_FAILED"):
                            await link.check()
                finally:
                    await link.aclose()

    async def test_a_plain_server_is_not_spoken_to_where_tls_is_asked_for(self, valkey: Valkey) -> None:
        place = shared_address(f"rediss://localhost:{valkey.port}")
        link = RedisLink(place, SystemClock(), password=valkey.password_file)
        with pytest.raises(GateError) as refused:
            await link.check()
        assert refused.value.code is ErrorCode.SHARED_UNAVAILABLE

    def test_an_authority_that_is_none_is_refused_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        with pytest.raises(GateError, match="shared_ca"):
            RedisLink(shared_address("rediss://localhost"), SystemClock(), ca=tmp_path / "ca.pem")


def test_without_the_package_the_text_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    for name in [name for name in sys.modules if name.startswith("twogate.stores.shared.redis_")]:
        monkeypatch.delitem(sys.modules, name)
    settings = parse_settings(
        "{public_url: 'http://localhost:8000', listen: '127.0.0.1:8000', store: 'sqlite:///./state/t.db', "
        "tenants: {acme: {}}, shared: 'redis://localhost'}",
        tmp_path / "twogate.yaml",
    )
    with pytest.raises(GateError, match=r"pip install 'twogate\[redis\]'") as refused:
        open_shared(settings, SystemClock(), SystemRng())
    assert refused.value.code is ErrorCode.SHARED_UNAVAILABLE
