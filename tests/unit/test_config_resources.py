from pathlib import Path

import pytest

from twogate.config import ConfigError, Settings, parse_settings
from twogate.config.policy import compile_policy
from twogate.core.access import ToolClass

CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./twogate.db
servers: {files: {url: "https://files.internal/mcp"}}
tools:
  files.resource:file:///reports/**: {class: read}
  files.resource:file:///reports/*.csv?**: {class: secrets}
  files.resource:users://{id}/avatar: {class: read}
  files.resource:file:///a\\*b: {class: read}
  files.prompt:Was nun?: {class: read}
  files.tool:resource:x: {class: write}
tasks:
  report: {tools: ["files.resource:file:///reports/**", files.prompt:Was nun?, "files.resource:users://{id}/avatar"]}
tenants: {acme: {servers: [files]}}
"""


def load(text: str) -> Settings:
    return parse_settings(text, Path("/etc/twogate.yaml"))


def problems(old: str, new: str) -> list[str]:
    assert old in CONFIG
    with pytest.raises(ConfigError) as caught:
        load(CONFIG.replace(old, new))
    return [f"{problem.line} {problem.key}: {problem.message}" for problem in caught.value.problems]


def test_yaml_needs_no_quotes_where_a_key_stands_alone() -> None:
    policy = compile_policy(load(CONFIG))
    for target, entry, tool_class in (
        ("files.resource:file:///reports/2026/q3", "files.resource:file:///reports/**", ToolClass.READ),
        ("files.resource:file:///reports/a.csv?b", "files.resource:file:///reports/*.csv?**", ToolClass.SECRETS),
        ("files.resource:users://{id}/avatar", "files.resource:users://{id}/avatar", ToolClass.READ),
        ("files.resource:file:///a*b", r"files.resource:file:///a\*b", ToolClass.READ),
        ("files.prompt:Was nun?", "files.prompt:Was nun?", ToolClass.READ),
        ("files.tool:resource:x", "files.tool:resource:x", ToolClass.WRITE),
    ):
        found = policy.classify(target)
        assert found is not None, target
        assert (found.entry, found.tool_class) == (entry, tool_class)
    assert policy.classify(r"files.resource:file:///a\*b") is None
    assert policy.tasks["report"] <= policy.classes.keys()


def test_a_list_names_entries_and_has_no_patterns_of_its_own() -> None:
    (narrower,) = problems(
        'tools: ["files.resource:file:///reports/**"', 'tools: ["files.resource:file:///reports/q3/**"'
    )
    assert narrower.startswith(
        "13 tasks.report.tools[0]: 'files.resource:file:///reports/q3/**' is not classified; add `"
    )
    assert narrower.endswith("(did you mean 'files.resource:file:///reports/**'?)")
    (exact,) = problems('tools: ["files.resource:file:///reports/**"', 'tools: ["files.resource:file:///reports/q3"')
    assert "is not classified" in exact


def test_patterns_of_which_neither_is_more_specific_are_refused() -> None:
    (found,) = problems(
        "  files.prompt:Was nun?: {class: read}\n",
        "  files.prompt:Was nun?: {class: read}\n  files.resource:file:///reports/*: {class: fetch}\n",
    )
    assert found.startswith("11 tools.files.resource:file:///reports/*: may match the same URI as files.resource:")


def test_an_unknown_server_or_a_malformed_pattern_is_named_with_its_line() -> None:
    (found,) = problems(
        "  files.prompt:Was nun?: {class", "  flies.prompt:x: {class: read}\n  files.prompt:Was nun?: {class"
    )
    assert found.startswith("10 tools.flies.prompt:x: unknown server 'flies'")
    (found,) = problems("reports/*.csv?**", "reports/*.csv?***")
    assert found.startswith("7 tools.files.resource:file:///reports/*.csv?***: holds ***")
