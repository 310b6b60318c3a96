"""Starts atheris, a coverage-guided fuzzer, on one invariant. The command line is libFuzzer's; see `make fuzz`."""

from __future__ import annotations

import sys

import atheris


def run(invariant: str) -> None:
    """Call a function of `invariants.py` with bytes that reach ever more of Twogate, until an assertion fails."""
    with atheris.instrument_imports(include=["twogate"]):
        from fuzz import invariants
    check = getattr(invariants, invariant)

    def once(data: bytes) -> None:
        check(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()
