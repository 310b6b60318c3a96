"""Twogate: the identity and access layer for MCP (Model Context Protocol)."""

__version__ = "0.1.0"
