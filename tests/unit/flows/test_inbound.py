"""The library's checks are its own, and come without the rest of it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import FunctionType

from mcp.shared import inbound as library

from twogate.flows.gateway import inbound


def test_what_is_used_is_what_the_library_has() -> None:
    names = [name for name in vars(inbound) if hasattr(library, name) and not name.startswith("_")]
    assert {"MCP_METHOD_HEADER", "classify_inbound_request", "InboundLadderRejection"} <= set(names)
    for name in names:
        ours, theirs = getattr(inbound, name), getattr(library, name)
        if isinstance(ours, FunctionType | type):
            assert (inspect.getfile(ours), inspect.getsource(ours)) == (
                inspect.getfile(theirs),
                inspect.getsource(theirs),
            )
        else:
            assert ours == theirs


def test_neither_the_librarys_clients_nor_its_servers_are_loaded_to_serve() -> None:
    code = "import sys, twogate.app; print(*(name for name in sys.modules if name.startswith('mcp.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"
