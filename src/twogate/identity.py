"""For MCP servers behind the gateway: who calls, from the `Twogate-Identity` header.

from twogate.identity import HEADER, verify_identity

caller = verify_identity(headers[HEADER], jwks=key_set, issuer="https://mcp.example.com", server="files", now=now)
"""

from twogate.core.errors import GateError
from twogate.core.identity import HEADER, Identity, verify_identity

__all__ = ["HEADER", "GateError", "Identity", "verify_identity"]
