from __future__ import annotations

from pathlib import Path

import pytest

from harness.measuring import LONG, MEASURED, UNMEASURED, is_measured

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("place", sorted({*UNMEASURED, *MEASURED, *LONG}))
def test_what_is_treated_apart_is_there(place: str) -> None:
    assert (ROOT / place).exists()


@pytest.mark.parametrize(
    ("nodeid", "counts"),
    [
        ("tests/unit/core/test_access.py::test_a", True),
        ("tests/attacks/test_login.py::test_a", True),
        ("tests/peers/test_demo.py::test_a", True),
        ("tests/peers/test_inspector.py::test_a", False),
        ("tests/browser/test_consent.py::test_a", False),
    ],
)
def test_only_what_is_there_to_run_lines_counts(nodeid: str, counts: bool) -> None:
    assert is_measured(nodeid) == counts
