"""Refusing tokens that come inside a form: the client is told that they are not good, the audit trail why."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from twogate.core.errors import GATE_ONE, ErrorCode, GateError

_OTHERS = frozenset({ErrorCode.GRANT_INVALID, ErrorCode.CONSENT_MISSING})


class RefusedAsError(GateError):
    """A refusal with its exact reason, as any other, and the code that the client is told instead."""

    def __init__(self, error: GateError, told: ErrorCode, description: str) -> None:
        super().__init__(error.code, error.debug, data={"description": description})
        self.told = told


@contextmanager
def told_as(told: ErrorCode, description: str) -> Generator[None]:
    """Tell refusals of what the form presents as `told`, and not as failures of the client's own authentication.

    Raises:
        RefusedAsError: in place of any code of gate one, of GRANT_INVALID and of CONSENT_MISSING.
    """
    try:
        yield
    except GateError as error:
        if error.face.jsonrpc != GATE_ONE and error.code not in _OTHERS:
            raise
        raise RefusedAsError(error, told, description) from error
