"""Starts atheris, a coverage-guided fuzzer, on one invariant. Options are libFuzzer's; see `make fuzz`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris


def run(invariant: str) -> None:
    """Fuzz a function of `invariants.py` with everything of Twogate instrumented."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with atheris.instrument_imports(include=["twogate"]):
        from fuzz import invariants
    check = getattr(invariants, invariant)
    atheris.Setup(sys.argv, lambda data: check(data) and None)
    atheris.Fuzz()
