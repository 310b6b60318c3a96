"""Holds the manifest of requirements and the tests to each other."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

from requirements import BEHAVIOURS, ROWS

TESTS = Path(__file__).parent


@lru_cache
def collected(file: str) -> frozenset[str]:
    """What pytest would collect of a file, as the part of the node id behind it, read from its syntax tree."""
    found: set[str] = set()
    for node in ast.parse((TESTS / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name.startswith("test_")
            }
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "TestCase":
            # A Hypothesis state machine.
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def test_every_listed_test_exists() -> None:
    missing = []
    for behaviour in BEHAVIOURS:
        for node_id in behaviour.tests:
            file, _, name = node_id.partition("::")
            if not (TESTS / file).is_file() or name not in collected(file):
                missing.append(node_id)
    assert missing == []


def test_every_row_is_shown_and_no_other_is_claimed() -> None:
    assert {behaviour.row for behaviour in BEHAVIOURS} == set(ROWS)


def test_every_behaviour_has_a_source_and_a_test_and_stands_here_once() -> None:
    assert all(behaviour.source and behaviour.what and behaviour.tests for behaviour in BEHAVIOURS)
    sentences = [(behaviour.row, behaviour.what) for behaviour in BEHAVIOURS]
    assert len(sentences) == len(set(sentences))
    for behaviour in BEHAVIOURS:
        assert len(behaviour.tests) == len(set(behaviour.tests))


def test_every_attack_stands_for_a_requirement() -> None:
    listed = {node_id.partition("::")[0] for behaviour in BEHAVIOURS for node_id in behaviour.tests}
    attacks = {f"attacks/{path.name}" for path in (TESTS / "attacks").glob("test_*.py")}
    assert attacks - listed == set(), "list at least one of their tests in tests/requirements.py"
