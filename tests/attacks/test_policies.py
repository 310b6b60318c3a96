"""Cedar policies (R-35): that none can widen, and that no trick gets a call past one that forbids it.

Everything here that is refused reached no MCP server, and the audit trail names the policy or the argument.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from policylab import COMMIT, TOOLS, asked, conditions, forbid, principal, problems
from twogate.adapters.clock import SystemClock
from twogate.adapters.serving import Serving
from twogate.core.conditions import MAX_ITEMS, MAX_MEMBERS, MAX_TEXT
from twogate.reload import Reloader

NOON = int(datetime(2026, 12, 2, 12, 0, 0, tzinfo=UTC).timestamp())
LOOK = 'action == Twogate::Action::"files.look"'
FIND = 'action == Twogate::Action::"files.find"'
POLICIES = (
    forbid(LOOK, "context.arguments has amount && context.arguments.amount > 100", "amount")
    + forbid(LOOK, 'context.arguments has path && context.arguments.path like "/etc/*"', "path")
    + forbid(LOOK, "context.arguments has boom && context.arguments.boom + 9223372036854775807 < 0", "overflow")
    + forbid(LOOK, "context.hour >= 22 || context.hour < 6", "night")
    + forbid(FIND, 'context has address && context.address.isInRange(ip("127.0.0.0/8"))', "here")
    + forbid('action == Twogate::Action::"notes.look"', '!principal.groups.contains("staff")', "staff")
)
DEVICE = forbid(FIND, '!context.device.contains("managed")', "device")
DECLARED = {"amount": "long", "path": "string", "boom": "long", "price": "decimal", "tags": "set<string>"}


class MovedClock(SystemClock):
    """The system's clock, set forward by the test."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead

    def now_us(self) -> int:
        return super().now_us() + self.ahead * 1_000_000

    def move_to(self, hour: int, minute: int, second: int) -> None:
        """Set it forward to the next such time of day (UTC)."""
        wanted = hour * 3600 + minute * 60 + second
        self.ahead += (wanted - self.now()) % 86_400


@pytest.fixture
def clock() -> MovedClock:
    made = MovedClock()
    made.move_to(12, 0, 0)
    return made


def configured(directory: Path, upstream: RecordingUpstream, issuer: TestIssuer) -> dict[str, Any]:
    (directory / "rules.cedar").write_text(POLICIES)
    made = settings_for(
        directory, free_port(), {"files": {"url": upstream.url}, "notes": {"url": upstream.url}}, issuer
    )
    made["tools"]["files.look"]["arguments"] = DECLARED
    made["tasks"]["report"]["tools"] += ["files.find"]
    made["issuers"][0]["claims"] |= {"groups": "/groups", "user": "/user", "user_optional": True}
    made["issuers"][0]["max_lifetime"] = "1d"
    made["groups"] = {"staff": {"role": "executor"}, "guests": {"role": "executor"}}
    made["policies"] = {"files": ["rules.cedar"]}
    return made


@pytest.fixture
async def stack(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> AsyncIterator[Stack]:
    async with running(tmp_path, configured(tmp_path, upstream, issuer), clock) as made:
        yield made


def token(stack: Stack, issuer: TestIssuer, clock: SystemClock, server: str = "files", **claims: Any) -> str:
    now = clock.now()
    return issuer.token(stack.resource(server), iat=now, exp=now + 600, **claims)


async def send(
    stack: Stack, token_: str, arguments: Any, *, tool: str = "look", server: str = "files"
) -> httpx2.Response:
    """Call with arguments given as an object, or as the JSON text that stands for them."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    params = f'{{"name":"{tool}","arguments":{text}}}'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'
    return await stack.post(token_, body.encode(), server, mcp_protocol_version="2025-11-25")


def refusals(stack: Stack) -> list[tuple[str, str]]:
    """The reason and detail of each refused call on the audit trail."""
    return [(one["reason"], one.get("detail", "")) for one in stack.events() if one["kind"] == "call.refused"]


# What a file of policies may say.


@pytest.mark.parametrize(
    "cedar",
    [
        "permit(principal, action, resource);",
        '@id("x") permit(principal, action == Twogate::Action::"git.commit", resource) when { context.hour == 3 };',
        'permit(principal == Twogate::Agent::"acme/robot", action, resource) unless { context.hour == 3 };',
        forbid() + "permit(principal, action, resource);",
        "// forbid(principal, action, resource);\npermit(principal, action, resource);",
        '@note("forbid(principal, action, resource);") permit(principal, action, resource);',
        "forbid(principal, action, resource) when { false }; /**/ permit(principal, action, resource);",
    ],
)
def test_a_policy_that_could_widen_cannot_exist(tmp_path: Path, cedar: str) -> None:
    found = problems(tmp_path, cedar)
    assert found
    assert all("is a permit; policies only narrow" in text or "is not Cedar" in text for text in found)


@pytest.mark.parametrize(
    ("cedar", "said"),
    [
        ("forbid(principal == ?principal, action, resource);", "is a template"),
        ("forbid(principal, action, resource == ?resource);", "is a template"),
        ('forbid(principal, action, resource) when { "', "is not Cedar"),
        ("forbid(principal, action, resource)", "is not Cedar"),
        (forbid(when="(" * 5000 + "true" + ")" * 5000), "brackets over"),
        (forbid(when="[" * 1500 + "]" * 1500 + " == []"), "brackets over"),
        (forbid(when=" && ".join(["true"] * 3000)), "characters"),
        (forbid() * 501, "more than 500 policies"),
        (forbid(name="a") + forbid(name="a"), "has the id of the policy at rules.cedar:1"),
        ('@id("a\\nb") forbid(principal, action, resource);', "has an @id that"),
        (forbid(COMMIT, "context.arguments has amuont"), "declares the argument amuont"),
        (forbid(COMMIT, "context.arguments has options.farce"), "declares the argument options.farce"),
        (forbid('action == Twogate::Action::"git.log"', "context.arguments has boom"), "declares the argument boom"),
        (forbid(COMMIT, 'context.arguments has amount && context.arguments.amount == "1"'), "the types"),
        (forbid(COMMIT, "context.arguments.amount > 1"), "optional attribute"),
        (forbid(COMMIT, "context has adress"), "there is no context.adress"),
        (forbid(COMMIT, "principal has users"), "there is no principal.users"),
        (forbid(COMMIT, 'principal.tenant == "acme"'), "the types"),
        (forbid('action == Twogate::Action::"git.comit"'), "unrecognized action"),
        (forbid(when='principal in Twogate::Role::"admn"'), '"admn"'),
        (forbid(when='principal in Twogate::Tenant::"globex"'), '"globex"'),
        (forbid(when='resource in Twogate::Server::"gti"'), '"gti"'),
        (forbid(when='resource == Twogate::Target::"git.comit"'), "the target git.comit is not classified"),
        (forbid(when='principal == Twogate::Agent::"robot"'), "the agent robot is of no tenant"),
        (forbid(when='principal in Other::Role::"reader"'), "unrecognized entity type"),
    ],
)  # fmt: skip
def test_a_policy_that_could_not_do_what_it_says_is_refused_at_the_start(tmp_path: Path, cedar: str, said: str) -> None:
    found = problems(tmp_path, cedar)
    assert any(said in text for text in found), found
    assert all(text.startswith("policies.files: rules.cedar:") for text in found)


async def test_a_gateway_is_not_even_built_with_a_policy_that_could_widen(
    stack: Stack, tmp_path: Path, upstream: RecordingUpstream, issuer: TestIssuer
) -> None:
    changed = configured(tmp_path, upstream, issuer)
    (tmp_path / "rules.cedar").write_text("permit(principal, action, resource);")
    with pytest.raises(ValueError, match=r"rules\.cedar:1: policy rules\.cedar:1 is a permit"):
        stack.adopt(changed)
    assert upstream.seen == []


# Arguments.


# fmt: off
REFUSED = (
    ('{"amount": 101}', "forbidden by policy amount (rules.cedar:1)"),
    ('{"amount": "1"}', "argument amount is not a long"),
    ('{"amount": 1.0}', "argument amount is not a long"),
    ('{"amount": 1e0}', "argument amount is not a long"),
    ('{"amount": -0.0}', "argument amount is not a long"),
    ('{"amount": true}', "argument amount is not a long"),
    ('{"amount": null}', "argument amount is not a long"),
    ('{"amount": [1]}', "argument amount is not a long"),
    ('{"amount": {"__extn": {"fn": "ip", "arg": "::1"}}}', "argument amount is not a long"),
    ('{"amount": {"__entity": {"type": "Twogate::Role", "id": "executor"}}}', "argument amount is not a long"),
    ('{"amount": 9223372036854775808}', "argument amount is not a long"),
    ('{"amount": 18446744073709551615}', "argument amount is not a long"),
    ('{"path": "/etc/passwd"}', "forbidden by policy path (rules.cedar:2)"),
    ('{"path": "\\u002fetc/passwd"}', "forbidden by policy path (rules.cedar:2)"),
    ('{"path": "/etc/\\u0000"}', "forbidden by policy path (rules.cedar:2)"),
    ('{"path": ["/tmp", "/etc/passwd"]}', "argument path is not a string"),
    ('{"path": null}', "argument path is not a string"),
    ('{"path": "%s"}' % ("x" * (MAX_TEXT + 1)), "argument path is too long to be judged"),
    ('{"Path": "/etc/passwd"}', "an argument of the call is another spelling of path"),
    ('{"p_a-t.h": "/etc/passwd"}', "an argument of the call is another spelling of path"),
    ('{"\\uff50ath": "/etc/passwd"}', "an argument of the call is another spelling of path"),
    ('{"path\\u200b": "/etc/passwd"}', "an argument of the call is another spelling of path"),
    ('{"path": "/tmp", "PATH": "/etc/passwd"}', "an argument of the call is another spelling of path"),
    ('{"p\\u00e1th": "/etc/passwd"}', "an argument of the call is another spelling of path"),
    ('{"__proto__": {"path": "/etc/passwd"}}', "an argument of the call is __proto__"),
    ('{"%s": 1}' % ("x" * 129), "an argument of the call has a name over 128 characters"),
    (json.dumps({f"x{n}": n for n in range(MAX_MEMBERS + 1)}), "the arguments of the call are more than 256"),
    ('{"price": 0.00001}', "argument price has more than 4 decimal places or is too large"),
    ('{"price": 1e300}', "argument price has more than 4 decimal places or is too large"),
    ('{"price": "1.5"}', "argument price is not a decimal"),
    ('{"tags": "a"}', "argument tags is not a set<string>"),
    ('{"tags": [1]}', "argument tags is not a string"),
    (json.dumps({"tags": ["a"] * (MAX_ITEMS + 1)}), "argument tags has more than 256 members"),
    ('{"boom": 5}', "policy overflow (rules.cedar:3) could not be evaluated"),
)
# fmt: on


async def test_no_spelling_of_an_argument_gets_past_its_policy(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    sent = token(stack, issuer, clock)
    for arguments, _ in REFUSED:
        answer = await send(stack, sent, arguments)
        assert (answer.status_code, upstream.seen) == (403, []), arguments[:80]
        assert answer.json()["error"]["data"] == {"reason": "not_permitted"}
    assert refusals(stack) == [("policy_denied", detail) for _, detail in REFUSED]


UNREADABLE = (
    ('{"amount": 1, "amount": 101}', "duplicate_key"),
    ('{"amount": 1, "\\u0061mount": 101}', "duplicate_key"),
    ('{"amount": 18446744073709551616}', "bad_number"),
    ('{"amount": 1e999}', "bad_number"),
    ('{"path": "\\ud800"}', "not_utf8"),
    ("null", "invalid_params"),
    ("[]", "invalid_params"),
)


async def test_what_parsers_read_differently_never_comes_as_far_as_a_policy(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    sent = token(stack, issuer, clock)
    for arguments, _ in UNREADABLE:
        answer = await send(stack, sent, arguments)
        assert (answer.status_code, upstream.seen) == (400, []), arguments
    assert [code for code, _ in refusals(stack)] == [reason for _, reason in UNREADABLE]


async def test_what_no_policy_forbids_runs_with_the_very_arguments(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    arguments = {"amount": 100, "path": "/tmp/ü/\U0001f511", "price": 12.5, "tags": ["a", "a"], "more": {"amount": 500}}
    assert (await send(stack, token(stack, issuer, clock), arguments)).status_code == 200
    assert [seen.message["params"]["arguments"] for seen in upstream.seen] == [arguments]


async def test_the_largest_arguments_that_are_judged_are_judged_in_time(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    deep: Any = {"path": "/etc/passwd"}
    for _ in range(40):
        deep = {"path": deep}
    heavy = {"path": "/usr" * (MAX_TEXT // 4), "other": ["x" * 1000] * 2000, "deeper": deep}
    sent = token(stack, issuer, clock)
    assert (await send(stack, sent, heavy)).status_code == 200
    assert (await send(stack, sent, deep)).status_code == 403
    assert len(upstream.seen) == 1


# Who, when, where.


async def test_an_hour_ends_to_the_second(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    # Some seconds on this side of the hour; to the second it is shown without a running clock, in the unit tests.
    for moment, status in (((21, 59, 30), 200), ((22, 0, 0), 403), ((5, 59, 30), 403), ((6, 0, 0), 200)):
        clock.move_to(*moment)
        assert (await send(stack, token(stack, issuer, clock), {})).status_code == status
    assert len(upstream.calls) == 2
    assert refusals(stack) == [("policy_denied", "forbidden by policy night (rules.cedar:4)")] * 2


async def test_where_a_call_comes_from_is_the_connections_word(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    body = tool_call("find")
    for claimed in ({}, {"x_forwarded_for": "10.0.0.1"}, {"forwarded": "for=10.0.0.1"}, {"x_real_ip": "10.0.0.1"}):
        sent = {"mcp_protocol_version": "2025-11-25", **claimed}
        assert (await stack.post(token(stack, issuer, clock), body, **sent)).status_code == 403
    assert upstream.seen == []
    assert set(refusals(stack)) == {("policy_denied", "forbidden by policy here (rules.cedar:5)")}


async def test_who_lacks_a_group_is_forbidden_what_only_the_group_may(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    def carries(**claims: Any) -> str:
        return token(stack, issuer, clock, "notes", **claims)

    assert (await send(stack, carries(user="alice", groups=["staff"]), {}, server="notes")).status_code == 200
    upstream.seen.clear()
    # Neither a token without the claim (an agent alone) nor one with names that look like it.
    for claims in (
        {},
        {"user": "alice", "groups": ["guests"]},
        {"user": "alice", "groups": ["Staff", "guests", "staff "]},
    ):
        assert (await send(stack, carries(**claims), {}, server="notes")).status_code == 403
    assert refusals(stack) == [("policy_denied", "forbidden by policy staff (rules.cedar:6)")] * 3
    assert (await send(stack, carries(user="alice", groups="staff"), {}, server="notes")).status_code == 401
    assert upstream.seen == []


async def test_a_device_is_what_the_issuer_says_of_it(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    changed = configured(tmp_path, upstream, issuer)
    (tmp_path / "rules.cedar").write_text(DEVICE)
    changed["issuers"][0]["claims"]["device"] = "/device/posture"
    async with running(tmp_path, changed, clock) as stack:

        async def status(**claims: Any) -> int:
            return (await send(stack, token(stack, issuer, clock, **claims), {}, tool="find")).status_code

        for device in ({"posture": ["encrypted"]}, {"posture": {"managed": False}}, {"posture": "Managed"}, {}, None):
            assert await status(device=device) == 403
        # A claim of another name says nothing, and one of another form makes no good token.
        assert await status(posture=["managed"], managed=True) == 403
        assert await status(device={"posture": {"managed": 1}}) == 401
        assert upstream.seen == []
        assert set(refusals(stack)) == {("policy_denied", "forbidden by policy device (rules.cedar:1)")}
        for device in ({"posture": ["managed", "x"]}, {"posture": {"managed": True}}, {"posture": "managed"}):
            assert await status(device=device) == 200


@pytest.mark.parametrize("written", ["127.0.0.1", "::ffff:127.0.0.1", "::FFFF:7f00:1", "::ffff:127.0.0.1%lo"])
def test_an_ipv4_address_is_itself_however_it_is_written(tmp_path: Path, written: str) -> None:
    policies = conditions(
        tmp_path, forbid(COMMIT, 'context has address && context.address.isInRange(ip("127.0.0.0/8"))')
    )
    assert policies.forbidden(asked(address=written)) == "forbidden by policy rules.cedar:1"
    assert policies.forbidden(asked(address="10.0.0.1")) is None


@pytest.mark.parametrize("written", ["unix", "", "localhost", "127.1", "0x7f.0.0.1"])
def test_who_has_no_address_is_not_within_any_range(tmp_path: Path, written: str) -> None:
    inside = '!(context has address && context.address.isInRange(ip("0.0.0.0/0")))'
    policies = conditions(tmp_path, forbid(COMMIT, inside))
    assert policies.forbidden(asked(address=written)) == "forbidden by policy rules.cedar:1"


# Around the policies.


async def test_policies_forbid_while_gate_two_is_only_observed(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    changed = configured(tmp_path, upstream, issuer)
    changed["enforcement"] = "observe"
    changed["observe_until"] = datetime.fromtimestamp(clock.now() + 86_400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    changed["tasks"]["report"]["tools"] = ["notes.look"]
    async with running(tmp_path, changed, clock) as stack:
        sent = token(stack, issuer, clock)
        # `look` is only observed to be outside the task, and then a policy forbids it.
        assert (await send(stack, sent, {"amount": 1})).status_code == 200
        assert (await send(stack, sent, {"amount": 101})).status_code == 403
        assert (await send(stack, sent, {"amount": "1"})).status_code == 403
        assert [code for code, _ in refusals(stack)] == ["policy_denied"] * 2
    assert upstream.calls == ["look"]


async def test_each_member_of_a_batch_is_judged(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock
) -> None:
    members = [tool_call("look", {"amount": amount}, number) for number, amount in enumerate((1, 101, "1", 2))]
    body = json.dumps(members).encode()
    answer = await stack.post(token(stack, issuer, clock), body, mcp_protocol_version="2025-03-26")
    assert ["result" in one for one in sorted(answer.json(), key=lambda one: one["id"])] == [True, False, False, True]
    assert [seen.message["params"]["arguments"]["amount"] for seen in upstream.seen] == [1, 2]


BROKEN = (
    "permit(principal, action, resource);",
    "forbid(principal, action, resource",
    forbid(LOOK, "context.arguments.amuont > 1"),
    forbid(when="(" * 5000 + "true" + ")" * 5000),
    "\udcff",
    "x" * (256 * 1024 + 1),
    None,
)


async def test_a_broken_file_changes_nothing_on_reload(
    stack: Stack, issuer: TestIssuer, upstream: RecordingUpstream, clock: MovedClock, tmp_path: Path
) -> None:
    serving = Serving(tmp_path / "state")
    reloader = Reloader(tmp_path / "twogate.yaml", stack.app, stack.state, None, serving, asyncio.Event())
    reloader.ready(os.getpid())
    rules, sent = tmp_path / "rules.cedar", token(stack, issuer, clock)
    generation = stack.app.current.settings.generation
    try:
        for broken in BROKEN:
            if broken is None:
                rules.unlink()
            else:
                rules.write_text(broken, errors="surrogateescape")
            with capture_logs():
                await reloader.reload()
            assert stack.reasons()[-1] == "configuration_invalid"
            assert stack.app.current.settings.generation == generation
            assert (await send(stack, sent, {"amount": 101})).status_code == 403
        assert [event["reason"] for event in stack.events() if event["kind"] == "configuration.refused"] == [
            "configuration_invalid"
        ] * len(BROKEN)
        # One in order takes effect at once, for who had a token and a session already; the generation names its text.
        rules.write_text(forbid(LOOK, name="all"))
        with capture_logs():
            await reloader.reload()
        assert stack.app.current.settings.generation != generation
        assert (await send(stack, sent, {"amount": 1})).status_code == 403
        assert refusals(stack)[-1] == ("policy_denied", "forbidden by policy all (rules.cedar:1)")
        assert upstream.seen == []
    finally:
        serving.close()


def test_a_policy_whose_evaluation_fails_forbids_beside_others_that_do_not(tmp_path: Path) -> None:
    failing = forbid(
        COMMIT, "context.arguments has boom && context.arguments.boom * 4611686018427387904 < 0", "failing"
    )
    policies = conditions(tmp_path, failing + forbid(COMMIT, "context.hour > 24", "never"))
    assert policies.forbidden(asked(arguments={"boom": 1})) is None
    assert policies.forbidden(asked(arguments={"boom": 2})) == "policy failing (rules.cedar:1) could not be evaluated"


@pytest.mark.parametrize("changes", [{"tenant": "globex"}, {"scopes": frozenset({"\ud800"})}, {"issuer": "\udfff"}])
def test_a_caller_that_cannot_be_put_to_the_policies_is_forbidden(tmp_path: Path, changes: dict[str, Any]) -> None:
    policies = conditions(tmp_path, forbid(COMMIT, "context.hour > 24"))
    assert policies.forbidden(asked()) is None
    assert policies.forbidden(asked(by=principal(**changes))) == "the call could not be put to the policies"


def test_an_entry_that_the_policies_do_not_know_is_forbidden(tmp_path: Path) -> None:
    assert conditions(tmp_path, forbid()).forbidden(asked("git.gone")) == "the policies do not know this entry"


# Whatever the policies are.

_CONDITIONS = st.sampled_from(
    [
        "",
        "context.hour > 11",
        "context.hour <= 11 || context.weekday == 7",
        "context.arguments has amount && context.arguments.amount > 5",
        "context.arguments has boom && context.arguments.boom + 9223372036854775807 > 0",
        'context has address && context.address.isInRange(ip("192.0.2.0/24"))',
        '!(context.device.contains("managed"))',
        'principal.groups.contains("staff")',
        'principal has user && principal.user.subject == "alice"',
        'resource.name like "c*" && context.session.task == "report"',
        "!(context.arguments has options.force && context.arguments.options.force)",
    ]
)
_SCOPES = st.sampled_from(["", COMMIT, 'action in Twogate::Action::"write"', 'action in Twogate::Action::"call"'])
_SETS = st.lists(st.tuples(_SCOPES, _CONDITIONS), max_size=4)
_CALLS = st.builds(
    asked,
    st.just("git.commit"),
    st.fixed_dictionaries(
        {},
        optional={
            "amount": st.one_of(st.integers(0, 10), st.text(max_size=2), st.none()),
            "boom": st.integers(-5, 5),
            "options": st.fixed_dictionaries({}, optional={"force": st.booleans()}),
        },
    ),
    by=st.builds(
        principal,
        groups=st.lists(st.sampled_from(["staff", "guests"]), unique=True),
        posture=st.frozensets(st.sampled_from(["managed", "encrypted"])),
    ),
    method=st.sampled_from(["tools/call", "tasks/get"]),
    address=st.sampled_from(["192.0.2.7", "::ffff:192.0.2.7", "10.0.0.1", "unix"]),
    now=st.integers(NOON, NOON + 86_400 * 7),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fewer=_SETS, more=_SETS, call=_CALLS)
def test_more_policies_never_allow_what_fewer_forbid(tmp_path: Path, fewer: Any, more: Any, call: Any) -> None:
    def judged(policies: list[tuple[str, str]]) -> str | None:
        # One that never applies, so that there is a file with something in it.
        text = forbid(COMMIT, "context.hour > 24") + "".join(forbid(scope, when) for scope, when in policies)
        return conditions(tmp_path, text, tools={**TOOLS, "git.log": {"class": "read"}}).forbidden(call)

    if judged(fewer) is not None:
        assert judged([*fewer, *more]) is not None
        assert judged([*more, *fewer]) is not None
