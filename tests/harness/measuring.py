"""Which tests' runs count as coverage, and in what order files run.

Measuring makes Python about half as fast again, and every process that a test starts takes part. So only what is there
to run the lines is measured: unit tests, contracts, attacks, and the demo. Peers, browsers, crashes, state machines and
fuzzing try what the lines do together; that they pass through them again says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

UNMEASURED = ("tests/browser/", "tests/crash/", "tests/fuzz/", "tests/peers/", "tests/stateful/")
MEASURED = ("tests/peers/test_demo.py", "tests/peers/test_legacy_clients.py")

LONG = ("tests/browser/", "tests/peers/", "tests/crash/", "tests/unit/cli/", "tests/stateful/", "tests/contracts/")
"""What takes longest by file, which comes first: the last file then keeps nobody waiting."""

_PROCESSES = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage measures processes too."""


def is_measured(nodeid: str) -> bool:
    """Whether a test counts."""
    return nodeid.startswith(MEASURED) or not nodeid.startswith(UNMEASURED)


class Measuring:
    """Pauses coverage between tests that count; without `--cov` nothing happens."""

    def __init__(self) -> None:
        self._paused_with: str | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Set it for this test's fixtures too, and for what they start."""
        controller = getattr(item.config.pluginmanager.get_plugin("_cov"), "cov_controller", None)
        if controller is not None:
            self._set(controller, paused=not is_measured(item.nodeid))
        return (yield)

    def _set(self, controller: Any, *, paused: bool) -> None:
        if paused and self._paused_with is None:
            controller.pause()
            self._paused_with = os.environ.pop(_PROCESSES, "")
        elif not paused and self._paused_with is not None:
            if self._paused_with:
                os.environ[_PROCESSES] = self._paused_with
            self._paused_with = None
            controller.resume()


def longest_first(items: list[pytest.Item]) -> None:
    """Order tests by how long their files take, otherwise as they stand."""
    items.sort(key=lambda item: next((n for n, part in enumerate(LONG) if item.nodeid.startswith(part)), len(LONG)))
