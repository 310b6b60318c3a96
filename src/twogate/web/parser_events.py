"""httptools' parser for one connection, and what it told."""

from __future__ import annotations

import httptools

from twogate.web.framing import EXACT


class ParserEvents:
    """What the parser told of the bytes it was last given; `EdgeProtocol` judges it."""

    __slots__ = ("body", "head_read", "headers", "keep_alive", "message_read", "odd", "parser")

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.head_read = False
        self.message_read = False
        self.keep_alive = False
        self.odd = False  # a header that frames the message has a trailing blank
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, whose value loses its outer blanks (RFC 9112 section 5.1)."""
        name = name.lower()
        bare = value.rstrip()
        if bare is not value and name in EXACT:
            self.odd = True
        self.headers.append((name, bare))

    def on_headers_complete(self) -> None:
        """The empty line was read; only here does the parser still know what Connection said."""
        self.head_read = True
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Decoded body bytes."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """The request's last byte was read."""
        self.message_read = True
