"""`twogate demo`: the whole of Twogate on one machine, with real MCP servers and the official MCP client."""

from twogate.cli.demo.command import register

__all__ = ["register"]
