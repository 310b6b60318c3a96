"""The MCP library's checks of requests and headers (`mcp.shared.inbound`), without the rest of that library.

That module is pure, but importing it by its name runs its package first, which loads clients and servers: a quarter of
what a start of Twogate costs. So its file is run by itself. It is the library's own code, of the version that is
installed; where that lays its files out otherwise, it is imported as usual.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

_LIBRARY: Final = "mcp.shared.inbound"
_OWN_NAME: Final = f"{__name__}.library"


def _load() -> ModuleType:
    if _LIBRARY in sys.modules:
        return sys.modules[_LIBRARY]
    package = find_spec("mcp")  # which runs nothing of it
    for folder in [] if package is None else package.submodule_search_locations or []:
        file = Path(folder, "shared", "inbound.py")
        spec = spec_from_file_location(_OWN_NAME, file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            module = sys.modules[_OWN_NAME] = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return import_module(_LIBRARY)


if TYPE_CHECKING:
    from mcp.shared import inbound as library
else:
    library = _load()

MCP_METHOD_HEADER = library.MCP_METHOD_HEADER
MCP_NAME_HEADER = library.MCP_NAME_HEADER
MCP_PARAM_HEADER_PREFIX = library.MCP_PARAM_HEADER_PREFIX
MCP_PROTOCOL_VERSION_HEADER = library.MCP_PROTOCOL_VERSION_HEADER
NAME_BEARING_METHODS = library.NAME_BEARING_METHODS
X_MCP_HEADER_KEY = library.X_MCP_HEADER_KEY
InboundLadderRejection = library.InboundLadderRejection
classify_inbound_request = library.classify_inbound_request
decode_header_value = library.decode_header_value
encode_header_value = library.encode_header_value
find_invalid_x_mcp_header = library.find_invalid_x_mcp_header
x_mcp_header_map = library.x_mcp_header_map
