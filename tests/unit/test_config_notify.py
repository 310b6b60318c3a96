"""`notify`: channels, and what is wrong with them by place."""

from __future__ import annotations

from pathlib import Path

import pytest

from twogate.adapters.clock import SystemClock
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.notify.slack import SlackChannel
from twogate.adapters.notify.smtp import MailChannel
from twogate.adapters.notify.webhook import WebhookChannel
from twogate.config import ConfigError, Settings, load_settings
from twogate.core.notices import Kind
from twogate.notices import asks_people, listeners

CONFIG = """\
public_url: https://mcp.example.com
listen: unix:/run/twogate.sock
store: sqlite:///./state/twogate.db
tenants: {acme: {}, globex: {}}
"""
HOOK = "webhook: {url: https://h.example/x, secret: key}"
MAIL = "host: mail.example.com, from: t@example.com, to: [a@example.com]"


def load(directory: Path, notify: str) -> Settings:
    file = directory / "twogate.yaml"
    file.write_text(f"{CONFIG}notify:\n{notify}\n")
    return load_settings(file)


def test_each_way_makes_its_channel(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "  one: {slack: {url: slack}, tenants: [acme], events: [decided]}\n"
        f"  two: {{{HOOK}}}\n  three: {{smtp: {{{MAIL}}}}}",
    )
    made = listeners(settings, GuardedFetch(SystemClock()), SystemClock())
    assert [type(one.channel) for one in made.values()] == [SlackChannel, WebhookChannel, MailChannel]
    assert made["one"].events == frozenset({Kind.DECIDED})
    assert made["two"].events == frozenset({Kind.REQUESTED, Kind.REMINDED, Kind.ESCALATED})
    assert made["one"].hears("acme", Kind.DECIDED)
    assert not made["one"].hears("globex", Kind.DECIDED)
    assert made["two"].hears("globex", Kind.REQUESTED)
    assert settings.notify["one"].slack is not None
    assert settings.notify["one"].slack.url == tmp_path / "slack"
    assert asks_people(settings)


@pytest.mark.parametrize(
    ("channel", "problem"),
    [
        ("{}", "needs exactly one of"),
        (f"{{slack: {{url: x}}, {HOOK}}}", "needs exactly one of"),
        ("{slack: {url: x}, tenants: [acmee]}", "unknown tenant 'acmee' (did you mean 'acme'?)"),
        ("{slack: {url: x}, events: []}", "notify.ops.events"),
        ("{slack: {url: x}, events: [asked]}", "notify.ops.events"),
        ("{webhook: {url: http://h.example/x, secret: key}}", "must be https"),
        ("{webhook: {url: https://bob:pw@h.example/x, secret: key}}", "secrets never stand in this file"),
        (f"{{smtp: {{{MAIL}, tls: none}}}}", "only for this machine itself"),
        (f"{{smtp: {{{MAIL}, user: bob}}}}", "go together"),
        (f"{{smtp: {{{MAIL}, password: file}}}}", "go together"),
        (f"{{smtp: {{{MAIL}, port: 0}}}}", "notify.ops.smtp.port"),
        (f"{{smtp: {{{MAIL}, tls: maybe}}}}", "notify.ops.smtp.tls"),
        ("{smtp: {host: localhost, from: a@b, to: [c@d], tls: none, ca: x}}", "goes with TLS"),
        ("{smtp: {host: m.example, from: 'Eve <a@b>', to: [c@d]}}", "plain mail address"),
        ('{smtp: {host: m.example, from: a@b, to: ["c@d\\r\\nBcc: e@f"]}}', "plain mail address"),
        ("{smtp: {host: m.example, from: a@b, to: ['=?utf-8?q?x?=@d']}}", "plain mail address"),
        ("{smtp: {host: 'm.example/x', from: a@b, to: [c@d]}}", "no valid host"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, channel: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"  ops: {channel}")
    assert problem in str(caught.value)
    assert "notify.ops" in str(caught.value)


def test_without_rules_and_channels_nobody_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "twogate.yaml"
    file.write_text(CONFIG)
    assert not asks_people(load_settings(file))
