from pathlib import Path

import pytest

from twogate.config import Settings, parse_settings
from twogate.config.policy import compile_policy, configured_agents, parse_agent_id
from twogate.core.access import Effect, ToolClass, session_targets
from twogate.core.principal import AgentId, Binding, Method

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./twogate.db
issuers:
  - {issuer: https://login.example.com/, algorithms: [ES256], tenants: [acme], claims: {agent: /azp}}
servers:
  git: {command: [git-server]}
tools:
  git.log: {class: read}
  git.commit: {class: write}
  git.push: {class: send}
tasks:
  report: {tools: [read, git.commit]}
agents:
  acme/a: {role: executor, tasks: [report], concurrent_tasks: 2, bindings: [
    {issuer: embedded, client_id: a}, {issuer: https://login.example.com/, subject: a}]}
groups: {finance: {role: reader, scopes: [git]}}
scopes: {git: [git.log, write]}
tenants: {acme: {servers: [git]}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse_settings(CONFIG, tmp_path / "twogate.yaml")


def test_the_policy_says_what_the_file_says(settings: Settings) -> None:
    policy = compile_policy(settings)
    assert policy.generation == settings.generation
    assert policy.classes == {
        "git.log": ToolClass.READ,
        "git.commit": ToolClass.WRITE,
        "git.push": ToolClass.SEND,
    }
    assert policy.roles["executor"].effect("git.commit", ToolClass.WRITE) is Effect.TOKEN
    assert policy.roles["reader"].effect("git.commit", ToolClass.WRITE) is Effect.DENY
    assert policy.tasks == {"report": {"read", "git.commit"}}
    assert policy.scopes == {"git": {"git.log", "write"}}
    assert policy.groups["finance"].role == "reader"
    assert policy.groups["finance"].scopes == {"git"}
    assert policy.tenants["acme"].servers == {"git"}
    assert session_targets(policy, "executor", "report") == {"git.log", "git.commit"}


def test_the_embedded_issuer_is_public_url_and_others_stay_as_written(settings: Settings) -> None:
    agents, bindings = configured_agents(settings)
    agent = AgentId("acme", "a")
    assert bindings == {
        Binding(Method.JWT, "http://localhost:8080", "a"): agent,
        Binding(Method.JWT, "https://login.example.com/", "a"): agent,
    }
    assert agents[agent].role == "executor"
    assert agents[agent].tasks == ("report",)
    assert agents[agent].default_task is None
    assert agents[agent].concurrent_tasks == 2
    assert not agents[agent].disabled


def test_the_compiled_policy_cannot_be_changed(settings: Settings) -> None:
    with pytest.raises(TypeError):
        compile_policy(settings).classes["git.x"] = ToolClass.READ  # type: ignore[index]  # the refusal is tested


@pytest.mark.parametrize("name", ["", "acme", "acme/", "/a", "a/b/c"])
def test_an_agent_s_name_has_two_parts(name: str) -> None:
    with pytest.raises(ValueError, match="tenant/name"):
        parse_agent_id(name)
