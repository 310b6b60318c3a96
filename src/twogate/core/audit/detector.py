"""The secret detector: the last line of defence on text that is logged or audited.

Nothing that calls it may pass secrets on purpose. It replaces what has the known form of one, for the case that a
caller put it where a name belongs (a token as a tool's name) or a message quotes it. Text without a known form, such
as a bare password, cannot be recognised.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Final

import msgspec

from twogate.core.audit.record import AuditEvent

MAX_FIELD: Final = 1024
"""Characters of a field that are kept."""
_MAX_INPUT: Final = 2 * MAX_FIELD
"""Characters that are looked at: more than are kept, so that a secret across the cut is still seen as one."""
_SHORTEST: Final = 12
"""No pattern below matches fewer characters (a test holds this), so shorter text needs no look."""
_MAX_KNOWN: Final = 8192
_MAX_KNOWN_LENGTH: Final = 256


def _word(word: str, rest: str) -> tuple[str, str]:
    # A word in any letter case, as alternatives that begin with a literal (see _PATTERN).
    return f"{word[0].lower()}(?i:{word[1:]}){rest}", f"{word[0].upper()}(?i:{word[1:]}){rest}"


_START: Final = r"(?<![A-Za-z0-9].)"  # behind an alternative's first character: no letter or digit before it
_SCHEME_VALUE: Final = r"[\s:=]{1,4}(?=[A-Za-z._~+/=-]{0,64}[0-9]|\S{20})[A-Za-z0-9._~+/=-]{6,}"
_ASSIGNED: Final = r"""["']?\s{0,4}(?:=|:\s{0,4}["'])\s{0,4}["']?[^\s"'&,;]{6,}"""

_KINDS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("pem", (r"-----BEGIN (?s:.*?)(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",)),
    ("jwt", (r"eyJ[A-Za-z0-9_-]{9,}(?:\.[A-Za-z0-9_-]*){0,4}",)),
    (
        "authorization",
        (*_word("bearer", _SCHEME_VALUE), *_word("dpop", _SCHEME_VALUE), *_word("basic", _SCHEME_VALUE)),
    ),
    ("aws", (rf"A{_START}(?:KIA|SIA)[A-Z0-9]{{16}}",)),
    ("github", (rf"g{_START}h[pousr]_[A-Za-z0-9]{{20,}}", rf"g{_START}ithub_pat_[A-Za-z0-9_]{{20,}}")),
    ("gitlab", (rf"g{_START}lpat-[A-Za-z0-9_-]{{16,}}",)),
    ("slack", (rf"x{_START}ox[a-z]-[A-Za-z0-9-]{{10,}}", rf"x{_START}app-[A-Za-z0-9-]{{10,}}")),
    (
        "api_key",
        (
            rf"s{_START}k-[A-Za-z0-9_-]{{16,}}",
            rf"s{_START}k_(?:live|test)_[A-Za-z0-9]{{10,}}",
            rf"r{_START}k_(?:live|test)_[A-Za-z0-9]{{10,}}",
            rf"w{_START}hsec_[A-Za-z0-9]{{16,}}",
        ),
    ),
    (
        "google",
        (
            rf"A{_START}Iza[A-Za-z0-9_-]{{35}}",
            rf"y{_START}a29\.[A-Za-z0-9_-]{{20,}}",
            rf"G{_START}OCSPX-[A-Za-z0-9_-]{{20,}}",
        ),
    ),
    ("vault", (rf"h{_START}v[sbr]\.[A-Za-z0-9_-]{{16,}}",)),
    (
        "registry",
        (
            rf"n{_START}pm_[A-Za-z0-9]{{36}}",
            rf"p{_START}ypi-[A-Za-z0-9_-]{{16,}}",
            rf"h{_START}f_[A-Za-z0-9]{{20,}}",
            rf"d{_START}ckr_pat_[A-Za-z0-9_-]{{20,}}",
        ),
    ),
    ("age", (rf"A{_START}GE-SECRET-KEY-1[A-Z0-9]{{20,}}",)),
    ("jwk", (r'"(?:d|k|p|q|dp|dq|qi)"\s{0,4}:\s{0,4}"[A-Za-z0-9_-]{16,}',)),
    ("url_password", (r"://[^\s/?#@:]{0,128}:[^\s/?#@]{4,256}@",)),
    (
        "assignment",
        tuple(
            alternative
            for word in (
                "passw(?:or)?d",
                "secret",
                "api[_-]?key",
                "access_token",
                "refresh_token",
                "id_token",
                "client_assertion",
                "code_verifier",
                "private_key",
            )
            for alternative in _word(word, _ASSIGNED)
        ),
    ),
)
_ALTERNATIVES: Final = tuple((kind, pattern) for kind, patterns in _KINDS for pattern in patterns)
# One pass, cheap because every alternative begins with a literal, so that the engine skips it by one comparison; the
# empty group at an alternative's end tells which one matched. Repetitions are bounded or over one character class, so
# that matching stays linear.
_PATTERN: Final = re.compile("|".join(f"{pattern}()" for _, pattern in _ALTERNATIVES))

_FIELDS: Final = (
    "detail",
    "target",
    "method",
    "user",
    "session",
    "task",
    "server",
    "agent",
    "tenant",
    "issuer",
    "user_issuer",
)
"""Fields that can hold what a caller sent. The others are ids, codes and digests that Twogate makes."""
_caller_text: Final[Callable[[AuditEvent], tuple[str, ...]]] = attrgetter(*_FIELDS)
_TEXT_FIELDS: Final = tuple(
    field.name for field in msgspec.structs.fields(AuditEvent) if field.default == "" and field.name != "evidence"
)
"""What is cut to MAX_FIELD. Evidence is Twogate's own JSON, capped where it is made: cut, it would prove nothing."""


def redact(text: str) -> str:
    """Replace everything that has the form of a secret by `[redacted:kind]`, and cut the text to MAX_FIELD."""
    if len(text) < _SHORTEST:
        return text
    return _PATTERN.sub(_replacement, text[:_MAX_INPUT])[:MAX_FIELD]


class Scrubber:
    """Cleans events before they are written; remembers text that it found clean, since names repeat."""

    def __init__(self) -> None:
        self._clean: set[str] = set()

    def scrub(self, event: AuditEvent) -> AuditEvent:
        """The event with every secret in a field that a caller can fill replaced; usually the same object."""
        return event if self._clean.issuperset(_caller_text(event)) else self._look(event)

    def _look(self, event: AuditEvent) -> AuditEvent:
        changes: dict[str, str] = {}
        for name in _FIELDS:
            text: str = getattr(event, name)
            if text in self._clean:
                continue
            cleaned = redact(text)
            if cleaned != text:
                changes[name] = cleaned
            elif len(text) <= _MAX_KNOWN_LENGTH:
                if len(self._clean) >= _MAX_KNOWN:
                    self._clean.clear()
                self._clean.add(text)
        return msgspec.structs.replace(event, **changes) if changes else event


def encodable(event: AuditEvent) -> AuditEvent:
    """The event with all its text cut to MAX_FIELD and lone surrogates, which UTF-8 cannot hold, written as escapes."""
    changes: dict[str, str] = {}
    for name in _TEXT_FIELDS:
        text: str = getattr(event, name)
        mended = text[:MAX_FIELD].encode("utf-8", "backslashreplace").decode()[:MAX_FIELD]
        if mended != text:
            changes[name] = mended
    return msgspec.structs.replace(event, **changes) if changes else event


def _replacement(match: re.Match[str]) -> str:
    return f"[redacted:{_ALTERNATIVES[(match.lastindex or 1) - 1][0]}]"
