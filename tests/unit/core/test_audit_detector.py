"""The secret detector finds every known form and leaves names alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.audit.detector import _SHORTEST, MAX_FIELD, Scrubber, encodable, redact
from twogate.core.audit.record import AuditEvent, EventKind

# Put together from parts, so that no scanner takes this file for a leak.
BODY = "Zx9" * 14
SECRETS = [
    ("jwt", "eyJ" + "hbGciOiJFUzI1NiJ9.eyJ" + "zdWIiOiJ4In0." + BODY),
    ("jwt", "eyJ" + "hbGciOiJub25lIn0.eyJ" + "zdWIiOiJ4In0."),
    ("jwt", "eyJ" + "hbGciOiJFUzI1NiJ9"),
    ("pem", "-----BEGIN " + "PRIVATE KEY-----\n" + BODY + "\n-----END PRIVATE KEY-----"),
    ("pem", "-----BEGIN " + "EC PRIVATE KEY-----\\n" + BODY),
    ("authorization", "Bearer " + "abc123def"),
    ("authorization", "bearer  " + "a" * 30),
    ("authorization", "DPoP " + BODY),
    ("authorization", "Basic " + "dXNlcjpwYXNzd29yZDE="),
    ("aws", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("aws", "ASIA" + "IOSFODNN7EXAMPLE"),
    ("github", "ghp_" + BODY),
    ("github", "github_pat_" + BODY),
    ("gitlab", "glpat-" + BODY),
    ("slack", "xoxb-" + BODY),
    ("slack", "xapp-" + BODY),
    ("api_key", "sk-" + BODY),
    ("api_key", "sk_live_" + BODY),
    ("api_key", "rk_test_" + BODY),
    ("api_key", "whsec_" + BODY),
    ("google", "AIza" + "Zx9-_" * 7),
    ("google", "ya29." + BODY),
    ("google", "GOCSPX-" + BODY),
    ("vault", "hvs." + BODY),
    ("registry", "npm_" + "Zx9" * 12),
    ("registry", "pypi-" + BODY),
    ("registry", "hf_" + BODY),
    ("registry", "dckr_pat_" + BODY),
    ("age", "AGE-SECRET-KEY-1" + "Q" * 58),
    ("jwk", '"d": "' + BODY + '"'),
    ("url_password", "postgresql://user:hunter22@db/x"[10:]),
    ("assignment", "password=" + "hunter22"),
    ("assignment", "Client_Secret = '" + "hunter22'"),
    ("assignment", '"api_key": "' + 'hunter22"'),
    ("assignment", "access_token=" + "hunter22&x=1"),
    ("assignment", "refresh_token=" + "hunter22"),
    ("assignment", "id_token=" + "hunter22"),
    ("assignment", "client_assertion=" + "hunter22"),
    ("assignment", "code_verifier=" + "hunter22"),
    ("assignment", "private_key=" + "hunter22"),
    ("assignment", "PASSWD: '" + "hunter22"),
]


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("tool ", " refused"), ("é/", ""), ("(", ")")])
def test_each_form_is_replaced_by_its_kind(kind: str, secret: str, before: str, after: str) -> None:
    result = redact(before + secret + after)
    assert f"[redacted:{kind}]" in result
    assert BODY[:12] not in result
    assert "hunter22" not in result
    assert result.startswith(before)


@pytest.mark.parametrize(
    "text",
    [
        "tools/call",
        "files.read_file",
        "https://login.example.com/realms/acme",
        "a1:0123456789abcdef0123",
        "bearer authentication failed",
        "Bearer token is missing",
        "the password is wrong",
        "task-force-one/sketchy_task-name-with-many-words",
        "basic reports, quarterly",
        "quarterly-report of agent acme/reporter refused: not in role analyst",
        "550e8400-e29b-41d4-a716-446655440000",
        "risk-assessment-of-the-year-2025-final",
        "http://127.0.0.1:9001/mcp",
    ],
)
def test_names_and_sentences_stay(text: str) -> None:
    assert redact(text) == text


def test_a_secret_across_the_cut_does_not_leave_its_head() -> None:
    result = redact("x" * (MAX_FIELD - 10) + " ghp_" + BODY)
    assert "ghp_" not in result
    assert len(result) <= MAX_FIELD


@given(st.text())
def test_redacting_is_idempotent_and_bounded(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
    assert len(once) <= max(MAX_FIELD, len(text) if len(text) < _SHORTEST else 0)


@given(st.from_regex(r"[eAgxsrwyGhnpd\":PSaikbBD.=/_ -]{0,11}", fullmatch=True))
def test_nothing_shorter_than_the_fast_path_could_match(text: str) -> None:
    # The fast path skips short text; the same text behind a long harmless one is looked at.
    assert redact(text + "\n" + "." * _SHORTEST).startswith(text)


@pytest.mark.parametrize(
    "name",
    ["detail", "target", "method", "user", "session", "task", "server", "agent", "tenant", "issuer", "user_issuer"],
)
def test_every_field_a_caller_can_fill_is_cleaned(name: str) -> None:
    scrubber = Scrubber()
    fields = {"kind": EventKind.CALL_REFUSED, "at": 1, "target": "files.read_file_number_one"}
    clean = AuditEvent(**fields)  # type: ignore[arg-type]  # members by name
    assert scrubber.scrub(clean) is clean
    scrubbed = scrubber.scrub(AuditEvent(**{**fields, name: "ghp_" + BODY}))  # type: ignore[arg-type]  # members by name
    assert getattr(scrubbed, name) == "[redacted:github]"


def test_the_memory_of_clean_text_is_bounded_and_never_holds_a_secret() -> None:
    scrubber = Scrubber()
    for number in range(20_000):
        scrubber.scrub(AuditEvent(kind=EventKind.CALL_REFUSED, at=1, target=f"files.read_file_{number}"))
    secret = AuditEvent(kind=EventKind.CALL_REFUSED, at=1, target="ghp_" + BODY)
    assert scrubber.scrub(secret).target == scrubber.scrub(secret).target == "[redacted:github]"
    assert len(scrubber._clean) <= 8192


def test_text_that_utf8_cannot_hold_is_escaped_and_long_text_cut() -> None:
    event = encodable(AuditEvent(kind=EventKind.CALL_REFUSED, at=1, target="a\ud800b", reason="r" * 5000))
    assert event.target == "a\\ud800b"
    assert len(event.reason) == MAX_FIELD
