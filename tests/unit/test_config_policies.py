"""`policies` and `tools.X.arguments` of the configuration: what is accepted, and how a mistake is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policylab import TOOLS, document, forbid, load, problems
from twogate import policies
from twogate.config import ConfigError
from twogate.config.file import parse_settings
from twogate.policies import conditions_of, schema_text


def told(directory: Path, **changes: Any) -> list[str]:
    """The problems with a configuration, with their places."""
    try:
        parse_settings(json.dumps(document("rules.cedar", **changes)), directory / "twogate.yaml")
    except ConfigError as error:
        return [f"{problem.key}: {problem.message}" for problem in error.problems]
    return []


@pytest.fixture(autouse=True)
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.cedar"
    path.write_text(forbid())
    return path


def test_a_file_lies_beside_the_configuration_and_its_text_is_part_of_the_generation(
    tmp_path: Path, rules: Path
) -> None:
    first = load(tmp_path, forbid())
    assert first.policies is not None
    assert [(file.path, file.text) for file in first.policies.files] == [(rules, forbid())]
    assert load(tmp_path, forbid()).generation == first.generation
    assert load(tmp_path, forbid() + "\n").generation != first.generation


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "policies.files: must not be empty"),
        (["missing.cedar"], "missing.cedar is not a file"),
        (["."], "is not a file"),
        ([""], "must be the path of a file"),
        ([1], "must be the path of a file"),
        (["rules.cedar", "other/rules.cedar"], "two files are called rules.cedar"),
        (["rules.cedar", "rules.cedar"], "two files are called rules.cedar"),
        (["large.cedar"], "is larger than 262144 bytes"),
        (["binary.cedar"], "is not UTF-8 text"),
        (["nul.cedar"], "holds a NUL character"),
        ([f"{n}.cedar" for n in range(33)], "at most 32"),
    ],
    ids=str,
)
def test_a_list_of_files_that_cannot_be_read_is_refused(tmp_path: Path, files: list[Any], said: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rules.cedar").write_text(forbid())
    (tmp_path / "large.cedar").write_text("/" * (256 * 1024 + 1))
    (tmp_path / "binary.cedar").write_bytes(b"\xff")
    (tmp_path / "nul.cedar").write_text("\0")
    for number in range(33):
        (tmp_path / f"{number}.cedar").write_text("")
    found = told(tmp_path, policies={"files": files})
    assert any(said in text for text in found), found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "declares nothing"),
        ({"a": {}}, "a declares nothing"),
        ({"a": "int"}, "a must be one of bool, long, string, decimal, set<string>, set<long>"),
        ({"a": 1}, "a must be one of"),
        ({"a": None}, "a must be one of"),
        ({"a": {"b": "number"}}, "a.b must be one of"),
        ({"__extn": "string"}, "is no argument's name"),
        ({"a b": "string"}, "is no argument's name"),
        ({"": "string"}, "is no argument's name"),
        ({"a": {"b": {"c": {"d": {"e": "long"}}}}}, "a.b.c.d lies more than 4 objects deep"),
        ({f"a{n}": "long" for n in range(65)}, "declares more than 64 arguments"),
    ],
    ids=str,
)
def test_an_argument_that_is_not_declared_rightly_is_refused(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    found = told(tmp_path, tools={**TOOLS, "git.push": {"class": "send", "arguments": arguments}})
    assert [text for text in found if text.startswith("tools.git.push.arguments: ") and said in text], found


def test_arguments_are_for_tools_and_prompts_and_of_no_use_without_policies(tmp_path: Path) -> None:
    of_resource = {"git.resource:file:///a": {"class": "read", "arguments": {"uri": "string"}}}
    assert "is not for resources" in told(tmp_path, tools={**TOOLS, **of_resource})[0]
    of_prompt = {"git.prompt:review": {"class": "read", "arguments": {"n": "long"}}}
    assert "declare each as string" in told(tmp_path, tools={**TOOLS, **of_prompt})[0]
    changed = document("rules.cedar")
    del changed["policies"]
    with pytest.raises(ConfigError, match="there are no `policies`"):
        parse_settings(json.dumps(changed), tmp_path / "twogate.yaml")


def test_an_entry_means_the_same_for_every_tenant_or_no_policy_could_name_it(tmp_path: Path) -> None:
    def tenants(**second: Any) -> dict[str, Any]:
        own = {"class": "execute", "arguments": {"a": "long"}}
        return {
            "acme": {"servers": ["git", "files"], "tools": {"git.run": own}},
            "globex": {"servers": ["git"], "tools": {"git.run": {**own, **second}}},
        }

    assert told(tmp_path, tenants=tenants()) == []
    for changed in ({"class": "write"}, {"arguments": {"a": "string"}}):
        (found,) = told(tmp_path, tenants=tenants(**changed))
        assert found.startswith("tenants.globex.tools.git.run: has another class or other arguments than tenants.acme")
    # And what is a tenant's own is an action like the shared ones.
    run = forbid('action == Twogate::Action::"git.run"', "context.arguments has a && context.arguments.a > 1")
    assert problems(tmp_path, run, tenants=tenants()) == []
    assert problems(tmp_path, run) != []


def test_without_policies_nothing_is_asked_and_cedar_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "find_spec", lambda _: None)
    plain = document("rules.cedar", tools={"git.log": {"class": "read"}})
    del plain["policies"]
    assert conditions_of(parse_settings(json.dumps(plain), tmp_path / "twogate.yaml")) is None
    assert problems(tmp_path, forbid()) == ["policies.files: policies need the extra `cedar`: install `twogate[cedar]`"]


def test_a_server_is_needed_by_no_policy(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"servers": {}, "tools": {}, "tenants": {"acme": {}}}
    assert problems(tmp_path, forbid(when="context.hour > 20"), **empty) == []


def test_the_schema_can_be_read_by_people(tmp_path: Path) -> None:
    text = schema_text(load(tmp_path, forbid()))
    for part in ('entity Role enum ["executor", "reader"]', 'action "git.commit" in [Action::"write"]', "amount?: "):
        assert part in text


def test_every_problem_of_every_file_is_told_with_its_line(tmp_path: Path, rules: Path) -> None:
    rules.write_text("\n\n" + forbid(when="context.hours > 3", name="late") + "permit(principal, action, resource);")
    (tmp_path / "more.cedar").write_text("forbid(principal);")
    settings = parse_settings(json.dumps(document("rules.cedar", "more.cedar")), tmp_path / "twogate.yaml")
    with pytest.raises(ConfigError) as refused:
        policies.check_policies(tmp_path / "twogate.yaml", settings)
    first, *rest = [problem.message.split(" ", 3)[:3] for problem in refused.value.problems]
    assert first == ["more.cedar:1:", "is", "not"] or ["more.cedar:1:", "is", "not"] in rest
    assert ["rules.cedar:3:", "policy", "late"] in [first, *rest]
    assert ["rules.cedar:4:", "policy", "rules.cedar:4"] in [first, *rest]
