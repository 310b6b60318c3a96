"""Who runs a command, for the audit trail."""

from __future__ import annotations

import os
import pwd

from twogate.flows.approvals.voting import OPERATOR


def operator_name() -> str:
    """The operating system's account, as the system has it and not as the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def by_operator() -> str:
    """The same, told apart from a person's name."""
    return OPERATOR + operator_name()
