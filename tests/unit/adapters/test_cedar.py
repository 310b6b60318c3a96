"""Cedar's word on calls: what policies can ask, and how a refusal names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policylab import COMMIT, TOOLS, asked, conditions, forbid, load, principal
from twogate.adapters.cedar import ENTITIES_KEPT
from twogate.core.conditions import CONTEXT
from twogate.core.principal import UserId
from twogate.policies import policies_of

NEVER = forbid(COMMIT, "context.hour > 24", "never")


@pytest.mark.parametrize(
    ("condition", "call"),
    [
        ("context.arguments has amount && context.arguments.amount == 7", asked(arguments={"amount": 7})),
        ('context.arguments has path && context.arguments.path like "*.key"', asked(arguments={"path": "a.key"})),
        ('context.arguments has tags && context.arguments.tags.contains("x")', asked(arguments={"tags": ["y", "x"]})),
        ("context.arguments has lines && context.arguments.lines.contains(2)", asked(arguments={"lines": [1, 2]})),
        (
            'context.arguments has price && context.arguments.price.greaterThan(decimal("9.99"))',
            asked(arguments={"price": 10}),
        ),
        (
            "context.arguments has options.force && context.arguments.options.force",
            asked(arguments={"options": {"force": True}}),
        ),
        (
            'context.arguments has options.deep.name && context.arguments.options.deep.name == "x"',
            asked(arguments={"options": {"deep": {"name": "x"}}}),
        ),
        ('context.device.contains("managed")', asked(by=principal(posture=frozenset({"managed"})))),
        ('context.session.task == "report"', asked()),
        ('context.time.durationSince(context.session.created) >= duration("1m")', asked()),
        ('context.time >= datetime("2027-01-15T08:00:00Z") && context.time.toTime() == duration("8h")', asked()),
        ("context.weekday == 5 && context.hour == 8", asked()),
        ('context has address && context.address.isInRange(ip("192.0.2.0/24"))', asked(address="::ffff:192.0.2.1")),
        ('context has address && context.address == ip("2001:db8::1")', asked(address="2001:DB8:0::1")),
        ('principal == Twogate::Agent::"acme/robot"', asked()),
        ('principal in Twogate::Role::"executor" && principal in Twogate::Tenant::"acme"', asked()),
        ('principal.role == Twogate::Role::"executor" && principal.tenant == Twogate::Tenant::"acme"', asked()),
        ('principal.groups.containsAny(["staff", "ops"])', asked(by=principal(groups=["ops"]))),
        ('principal.scopes.contains("reports")', asked(by=principal(scopes=frozenset({"reports"})))),
        ('principal has user && principal.user.subject == "alice"', asked(by=principal(roles=["reader"]))),
        (
            'principal has user && principal.user.roles.contains(Twogate::Role::"reader")',
            asked(by=principal(roles=["reader"])),
        ),
        ("!(principal has user)", asked()),
        ('principal.issuer like "https://*" && principal.method == "jwt"', asked()),
        ('resource in Twogate::Server::"git" && resource == Twogate::Target::"git.commit"', asked()),
        ('resource.kind == "tool" && resource.name == "commit" && resource.entry == "git.commit"', asked()),
    ],
)
def test_a_policy_may_look_at(tmp_path: Path, condition: str, call: Any) -> None:
    assert conditions(tmp_path, NEVER + forbid(COMMIT, condition, "this")).forbidden(call) == (
        "forbidden by policy this (rules.cedar:2)"
    )
    negated = forbid(COMMIT, f"!({condition})", "that")
    assert conditions(tmp_path, negated).forbidden(call) is None


@pytest.mark.parametrize(
    ("scope", "target", "entry", "covered"),
    [
        ("action", "files.look", "files.look", True),
        (COMMIT, "git.commit", "git.commit", True),
        (COMMIT, "git.push", "git.push", False),
        ('action in Twogate::Action::"write"', "git.commit", "git.commit", True),
        ('action in Twogate::Action::"write"', "git.push", "git.push", False),
        ('action == Twogate::Action::"write"', "git.commit", "git.commit", False),
        ('action in Twogate::Action::"secrets"', "git.commit", "git.commit", False),
        ('action in Twogate::Action::"call"', "git.push", "git.push", True),
        ('action in [Twogate::Action::"read", Twogate::Action::"git.push"]', "git.push", "git.push", True),
        ('action in [Twogate::Action::"read", Twogate::Action::"git.push"]', "git.commit", "git.commit", False),
        (
            'action == Twogate::Action::"git.resource:file:///reports/**"',
            "git.resource:file:///reports/a",
            "git.resource:file:///reports/**",
            True,
        ),
    ],
)
def test_a_policy_covers_an_entry_or_a_class_of_them(
    tmp_path: Path, scope: str, target: str, entry: str, covered: bool
) -> None:
    policies = conditions(tmp_path, forbid(scope, name="it") + NEVER)
    assert (policies.forbidden(asked(target, entry=entry)) is not None) == covered
    # Only what covers an entry is handed to Cedar, and Cedar itself is of the same opinion.
    written = policies_of(load(tmp_path, forbid(scope, name="it")))
    assert (entry in written[0].entries) == covered
    inside = forbid(when="true" if scope == "action" else scope)
    assert (conditions(tmp_path, inside).forbidden(asked(target, entry=entry)) is not None) == covered


def test_tools_may_use_one_name_for_arguments_of_different_types(tmp_path: Path) -> None:
    policies = conditions(
        tmp_path,
        forbid(COMMIT, "context.arguments has amount && context.arguments.amount > 5", "number")
        + forbid(
            'action == Twogate::Action::"git.log"',
            'context.arguments has amount && context.arguments.amount == "all"',
            "text",
        ),
    )
    assert policies.forbidden(asked(arguments={"amount": 6})) == "forbidden by policy number (rules.cedar:1)"
    assert policies.forbidden(asked(arguments={"amount": "6"})) == "argument amount is not a long"
    assert policies.forbidden(asked("git.log", {"amount": "all"})) == "forbidden by policy text (rules.cedar:2)"
    assert policies.forbidden(asked("git.log", {"amount": 6})) == "argument amount is not a string"


def test_a_resource_is_judged_by_its_uri_however_it_is_reached(tmp_path: Path) -> None:
    policies = conditions(
        tmp_path, forbid(when='context.arguments has uri && context.arguments.uri like "*/secret*"', name="secret")
    )
    for method in ("resources/read", "resources/subscribe", "subscriptions/listen", "GET"):
        for name, said in (("secret", "forbidden by policy secret (rules.cedar:1)"), ("public", None)):
            call = asked(
                f"git.resource:file:///reports/{name}",
                entry="git.resource:file:///reports/**",
                method=method,
                params={},
            )
            assert policies.forbidden(call) == said


def test_a_prompt_and_its_completion_are_judged_by_their_arguments(tmp_path: Path) -> None:
    policies = conditions(
        tmp_path,
        forbid(
            'action == Twogate::Action::"git.prompt:review"',
            'context.arguments has language && context.arguments.language like "x*"',
        ),
    )
    said = "forbidden by policy rules.cedar:1"
    assert policies.forbidden(asked("git.prompt:review", {"language": "xx"}, method="prompts/get")) == said
    assert policies.forbidden(asked("git.prompt:review", {"language": "en"}, method="prompts/get")) is None
    written = {"argument": {"name": "language", "value": "x"}}
    assert policies.forbidden(asked("git.prompt:review", method="completion/complete", params=written)) == said


def test_what_follows_a_call_is_judged_by_the_policies_that_look_at_no_arguments(tmp_path: Path) -> None:
    policies = conditions(
        tmp_path,
        forbid(COMMIT, "!(context.arguments has confirm && context.arguments.confirm)", "unconfirmed")
        + forbid(COMMIT, 'context has address && context.address.isInRange(ip("10.0.0.0/8"))', "far"),
    )
    assert policies.forbidden(asked()) == "forbidden by policy unconfirmed (rules.cedar:1)"
    for method in ("tasks/get", "tasks/cancel", "GET", "subscriptions/listen"):
        assert policies.forbidden(asked(method=method, params={})) is None
        assert policies.forbidden(asked(method=method, params={}, address="10.0.0.1")) == (
            "forbidden by policy far (rules.cedar:2)"
        )


@pytest.mark.parametrize(
    "condition",
    [
        "context.arguments has amount",
        "context has arguments",
        "context == context",
        "{a: context}.a.arguments has amount",
        "context.arguments == context.arguments",
    ],
)
def test_a_policy_that_could_see_arguments_is_one_that_looks_at_them(tmp_path: Path, condition: str) -> None:
    (policy,) = policies_of(load(tmp_path, forbid(COMMIT, condition)))
    assert policy.looks_at_arguments


@pytest.mark.parametrize(
    ("condition", "seen"),
    [
        ("principal has user", set()),
        ("context.hour > 3 && context has address", {"hour", "address"}),
        ('(if context.device.contains("x") then context.session.task else "y") == "z"', {"device", "session"}),
        ("context == context", CONTEXT),
        ("{a: context} == {a: context}", CONTEXT),
    ],
)
def test_all_that_a_policy_could_see_of_the_context_is_known_of_it(
    tmp_path: Path, condition: str, seen: set[str]
) -> None:
    (policy,) = policies_of(load(tmp_path, forbid(COMMIT, condition)))
    assert policy.context == seen


def test_a_refusal_names_three_policies_and_counts_the_rest(tmp_path: Path) -> None:
    text = "".join(forbid(COMMIT, name=name) for name in "edcba") + NEVER
    assert conditions(tmp_path, text).forbidden(asked()) == (
        "forbidden by policies a (rules.cedar:5), b (rules.cedar:4), c (rules.cedar:3) and 2 more"
    )


def test_a_policy_is_named_by_its_line_where_comments_and_texts_hold_semicolons(tmp_path: Path) -> None:
    text = (
        '// a comment; with "quotes\n\n@note(";")\n'
        'forbid(principal, action, resource) when { resource.name == "a;\\"b" };\n'
        "/ /\n".replace("/ /", "// forbid(principal, action, resource);")
        + "  forbid(principal, action, resource)\n  when { true };"
    )
    policies = policies_of(load(tmp_path, text))
    assert [(policy.id, policy.line) for policy in policies] == [("rules.cedar:3", 3), ("rules.cedar:6", 6)]
    assert conditions(tmp_path, text).forbidden(asked()) == "forbidden by policy rules.cedar:6"


def test_callers_are_told_apart_however_many_there_are(tmp_path: Path) -> None:
    policies = conditions(tmp_path, forbid(COMMIT, 'principal has user && principal.user.subject == "u7"'))

    def said(subject: str) -> str | None:
        by = principal(user=UserId("https://login.example.com", subject))
        return policies.forbidden(asked(by=by))

    for number in range(ENTITIES_KEPT + 10):
        assert (said(f"u{number}") is not None) == (number == 7)
    assert said("u7") == "forbidden by policy rules.cedar:1"
    many = principal(groups=[f"group-{number}" for number in range(1000)], user=UserId("i", "u7"))
    assert policies.forbidden(asked(by=many)) == "forbidden by policy rules.cedar:1"


def test_a_completion_that_servers_read_differently_is_forbidden(tmp_path: Path) -> None:
    policies = conditions(tmp_path, forbid('action == Twogate::Action::"git.prompt:review"', "context.hour == 25"))
    params = {"argument": {"name": "other", "value": "x", "Name": "language"}}
    found = policies.forbidden(asked("git.prompt:review", method="completion/complete", params=params))
    assert found == "the completion's argument is no object of name, value"


def test_a_kept_answer_is_only_for_the_very_same_question(tmp_path: Path) -> None:
    rules = forbid(COMMIT, "context.hour >= 22 || context.arguments has amount && context.arguments.amount > 9", "a")
    policies = conditions(tmp_path, rules + forbid(COMMIT, 'principal.groups.contains("guests")', "b"))
    noon = asked().now // 86_400 * 86_400 + 43_200
    calls = {
        "nothing": (asked(now=noon), None),
        "later the same hour": (asked(now=noon + 3599), None),
        "at night": (asked(now=noon + 36_000), "forbidden by policy a (rules.cedar:1)"),
        "too much": (asked(arguments={"amount": 10}, now=noon), "forbidden by policy a (rules.cedar:1)"),
        "a guest": (asked(by=principal(groups=["guests"]), now=noon), "forbidden by policy b (rules.cedar:2)"),
        # Without arguments only the second policy is asked.
        "a poll": (asked(method="tasks/get", params={"taskId": "t"}, now=noon + 36_000), None),
    }
    for _ in range(2):
        for name, (call, said) in (*calls.items(), *reversed(calls.items())):
            assert (name, policies.forbidden(call)) == (name, said)


def test_the_answers_that_are_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twogate.adapters.cedar.VERDICTS_KEPT", 20)
    policies = conditions(tmp_path, forbid(COMMIT, 'context.arguments has path && context.arguments.path == "p7"'))
    for number in (*range(60), *range(60)):
        assert (policies.forbidden(asked(arguments={"path": f"p{number}"})) is not None) == (number == 7)
    assert len(policies._verdicts) == 20


def test_what_no_policy_is_about_is_not_forbidden(tmp_path: Path) -> None:
    policies = conditions(tmp_path, forbid(COMMIT))
    assert policies.forbidden(asked("git.push")) is None
    assert policies.forbidden(asked("files.look")) is None
    assert set(TOOLS) == set(policies._judged)
