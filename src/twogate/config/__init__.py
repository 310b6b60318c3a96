"""The configuration: one YAML file, checked as a whole before anything uses it (DESIGN decision 22)."""

from twogate.config.file import ConfigError, Problem, load_settings, parse_settings
from twogate.config.servers import HttpServer, LibraryServer, StdioServer
from twogate.config.settings import Settings
from twogate.config.values import TcpAddress, UnixAddress

__all__ = [
    "ConfigError",
    "HttpServer",
    "LibraryServer",
    "Problem",
    "Settings",
    "StdioServer",
    "TcpAddress",
    "UnixAddress",
    "load_settings",
    "parse_settings",
]
