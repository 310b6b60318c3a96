"""Connections to the MCP servers behind the gateway."""
