"""Messages to people: nothing secret in them, nothing in them that a stranger wrote as markup, nobody fooled by them.

Threats: an agent that leaks arguments into a chat, names that are links, mentions or mail headers, a receiver that
turns against the network or holds things up, a forged or replayed message, a mail server that asks for the
password in clear.
"""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gatelab import NOW, FakeClock
from noticelab import ALICE, Kept, NoticeLab, listener, open_notice_lab, secret_file
from rawlab import Authority, Peer, RawServer, Script, answering, breaking_off, http_answer, silent_after
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.notify.slack import SlackChannel, slack_message
from twogate.adapters.notify.smtp import MailChannel, MailServer, Security, compose_mail
from twogate.adapters.notify.webhook import WebhookChannel, webhook_body
from twogate.core.approval import State
from twogate.core.notices import MAX_SUBJECT, Kind, Notice
from twogate.core.principal import UserId
from twogate.flows.approvals.notices import Channel, ChannelError

SECRET = "sup3r-s3cret-argument"
KEY = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OK = http_answer(b"ok")
GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "notify-approvers.md"
NASTY = (
    "<!channel>",
    "<https://evil.example|Approve here>",
    "@here",
    "https://evil.example/approve",
    "`*x*` & _y_",
    "a\r\nBcc: eve@evil.example\r\n\r\nbody",
    "\u202egnp.exe\u2066",
    "x" * 5000,
    "=?utf-8?q?=0D=0ABcc:_eve@evil.example?=",
    "",
)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[NoticeLab]:
    async with open_notice_lab(f"sqlite:///{tmp_path}/state/twogate.db") as made:
        yield made


async def told(lab: NoticeLab, **changes: Any) -> Notice:
    kept = Kept()
    await lab.park(**changes)
    await lab.telling(ops=kept).tick()
    return kept.got[-1]


def fetch(seconds: float = 5.0) -> GuardedFetch:
    return GuardedFetch(FakeClock(), seconds=seconds)


def webhook(directory: Path, url: str, *, guard: GuardedFetch | None = None, ca: Path | None = None) -> WebhookChannel:
    return WebhookChannel(url, secret_file(directory, "key", KEY), guard or fetch(), FakeClock(), ca)


def documented() -> Callable[..., bool]:
    """The receiver's side as the guide has it."""
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - our own documentation
    verify: Callable[..., bool] = names["verify"]
    return verify


async def taken(channel: Callable[[str], Channel], notice: Notice) -> tuple[dict[str, str], bytes]:
    """What a receiver gets: header fields and body."""
    async with RawServer(breaking_off(OK)) as server:
        await channel(f"http://127.0.0.1:{server.port}/hook").send(notice)
        head, _, body = server.requests[0][1].partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
    return {name.lower(): value for name, _, value in lines}, body


async def test_no_argument_is_in_any_message(lab: NoticeLab) -> None:
    notice = await told(lab, sealed=SECRET.encode(), nonce=SECRET, digest=SECRET, session=SECRET, pin=SECRET)
    mail = compose_mail(notice, "t@example.com", ["a@example.com"], NOW).as_bytes()
    for message in (slack_message(notice), webhook_body(notice), mail):
        assert SECRET.encode() not in message
        assert b"git.git_commit" in message
        assert f"https://mcp.example.com/approvals/{notice.approval}".encode() in message


@pytest.mark.parametrize("number", range(len(NASTY)))
async def test_names_are_no_markup_in_slack(lab: NoticeLab, number: int) -> None:
    name = NASTY[number]
    notice = await told(lab, tool=name, agent=name, task=name, user=UserId(ALICE.issuer, name or "-"))
    message = json.loads(slack_message(notice))
    assert message["text"] == "A call waits for approval"
    assert "actions" not in {block["type"] for block in message["blocks"]}
    texts = [block["text"] for block in message["blocks"] if block["type"] == "section"]
    assert all(text["type"] == "mrkdwn" and text["verbatim"] is True for text in texts)
    facts, link = (text["text"] for text in texts)
    assert link == f"<{notice.link}|Look at it in Twogate>"
    # Each line is a fixed word and one code span, in which nothing is raw.
    assert all(re.fullmatch(r"\*[A-Z][a-z ]*:\* `[^`<>]+`", line) for line in facts.split("\n"))
    assert "://" not in facts
    assert len(facts) < 3000
    assert all(char.isprintable() for char in facts.replace("\n", ""))


@pytest.mark.parametrize("number", range(len(NASTY)))
async def test_names_add_nothing_to_a_mails_head(lab: NoticeLab, number: int) -> None:
    name = NASTY[number]
    notice = await told(lab, tool=name, agent=name, task=name, user=UserId(ALICE.issuer, name or "-"))
    assert len(notice.subject) <= MAX_SUBJECT
    raw = compose_mail(notice, "t@example.com", ["a@example.com", "b@example.com"], NOW).as_bytes()
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert [header.lower() for header in mail] == [
        "from", "to", "subject", "date", "message-id", "auto-submitted",
        "content-type", "content-transfer-encoding", "mime-version",
    ]  # fmt: skip
    assert [address.addr_spec for address in mail["to"].addresses] == ["a@example.com", "b@example.com"]
    assert not mail.is_multipart()
    body = mail.get_content()
    assert body.count("://") == 1, "the page's own address is the only link"


async def test_a_webhook_is_verified_as_documented_and_nothing_else_is(lab: NoticeLab, tmp_path: Path) -> None:
    notice, verify = await told(lab), documented()
    headers, body = await taken(lambda url: webhook(tmp_path, url), notice)
    assert headers["webhook-id"] == notice.id
    assert headers["content-type"] == "application/json"
    assert verify(KEY, headers, body, NOW) is True
    data = json.loads(body)["data"]
    assert (data["approval"], data["user"], data["may_decide"]) == (notice.approval, "alice", ["approver"])
    # Altered, under another name, at another time, with another key, or unsigned.
    assert verify(KEY, headers, body.replace(b"requested", b"escalated"), NOW) is False
    assert verify(KEY, {**headers, "webhook-id": "msg_other"}, body, NOW) is False
    assert verify(KEY, {**headers, "webhook-timestamp": str(NOW + 1)}, body, NOW) is False
    assert verify("whsec_" + base64.b64encode(bytes(32)).decode(), headers, body, NOW) is False
    assert verify(KEY, {**headers, "webhook-signature": "v1,"}, body, NOW) is False
    # Replayed after the window.
    assert verify(KEY, headers, body, NOW + 301) is False


async def test_a_message_that_comes_again_has_the_same_name_and_two_have_not(lab: NoticeLab) -> None:
    first, second = Kept(), Kept()
    call = await lab.park()
    await lab.telling(one=first, two=second).tick()
    await lab.park()
    await lab.telling(one=first, two=second).tick()
    names = [notice.id for notice in (*first.got, *second.got)]
    assert len(set(names)) == 4
    assert call.id not in "".join(names)


async def test_a_redirect_is_not_followed(lab: NoticeLab, tmp_path: Path) -> None:
    notice = await told(lab)
    async with RawServer(breaking_off(OK)) as inner:
        moved = http_answer(b"", b"location: http://127.0.0.1:%d/" % inner.port, status=b"307 Temporary Redirect")
        async with RawServer(breaking_off(moved)) as server:
            with pytest.raises(ChannelError, match="status 307"):
                await webhook(tmp_path, f"http://127.0.0.1:{server.port}/").send(notice)
        assert inner.connections == 0


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "0.0.0.0"])
async def test_no_receiver_is_where_clouds_keep_credentials(lab: NoticeLab, tmp_path: Path, address: str) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return [address]

    notice = await told(lab)
    guard = GuardedFetch(FakeClock(), resolve=resolve)
    with pytest.raises(ChannelError, match="may not be fetched from"):
        await webhook(tmp_path, "https://hook.example.com/", guard=guard).send(notice)
    server = MailServer("mail.example.com", 25, Security.STARTTLS)
    with pytest.raises(ChannelError, match="may not be connected to"):
        await MailChannel(server, "t@example.com", ["a@example.com"], FakeClock(), resolve).send(notice)


async def test_a_receiver_that_answers_without_end_has_taken_the_message(lab: NoticeLab, tmp_path: Path) -> None:
    notice = await told(lab)

    async def flood(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 202 Accepted\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            await peer.send(bytes(65536))

    async with RawServer(flood) as server:
        await webhook(tmp_path, f"http://127.0.0.1:{server.port}/").send(notice)
        assert server.connections == 1


async def test_a_receiver_that_hangs_is_left(lab: NoticeLab, tmp_path: Path) -> None:
    notice = await told(lab)
    async with RawServer(silent_after(b"HTTP/1.1 ")) as server:
        with pytest.raises(ChannelError, match="no complete answer"):
            await webhook(tmp_path, f"http://127.0.0.1:{server.port}/", guard=fetch(0.05)).send(notice)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"404 Not Found", b"429 Too Many", b"500 Oops", b"304 Not"])
async def test_only_success_is_success(lab: NoticeLab, tmp_path: Path, status: bytes) -> None:
    notice = await told(lab)
    async with RawServer(breaking_off(http_answer(b"", status=status))) as server:
        with pytest.raises(ChannelError, match=f"status {status[:3].decode()}"):
            await webhook(tmp_path, f"http://127.0.0.1:{server.port}/").send(notice)


async def test_a_receiver_proves_who_it_is(lab: NoticeLab, tmp_path: Path) -> None:
    notice, authority = await told(lab), Authority(tmp_path)
    async with RawServer(answering(OK), tls=authority.server_context("localhost")) as server:
        url = f"https://localhost:{server.port}/"
        with pytest.raises(ChannelError, match=r"(?i)certificate"):
            await webhook(tmp_path, url).send(notice)
        assert server.requests == []
        await webhook(tmp_path, url, ca=authority.ca_file).send(notice)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "mode"),
    [(KEY, 0o644), ("not-a-secret", 0o600), ("whsec_c2hvcnQ=", 0o600), ("whsec_*", 0o600), (KEY + "\n" + KEY, 0o600)],
    ids=["open", "unmarked", "short", "not base64", "two lines"],
)
async def test_a_bad_key_sends_nothing_and_is_never_repeated(
    lab: NoticeLab, tmp_path: Path, text: str, mode: int
) -> None:
    notice = await told(lab)
    async with RawServer(answering(OK)) as server:
        path = secret_file(tmp_path, "bad", text, mode)
        channel = WebhookChannel(f"http://127.0.0.1:{server.port}/", path, fetch(), FakeClock(), None)
        with pytest.raises(ChannelError) as caught:
            await channel.send(notice)
        assert server.connections == 0
    assert text.partition("_")[2] not in str(caught.value) or "_" not in text


async def test_slacks_url_is_a_secret_also_when_it_fails(lab: NoticeLab, tmp_path: Path) -> None:
    hidden = secrets.token_hex(8)
    failing = Kept()
    async with RawServer(answering(http_answer(b"no", status=b"403 Forbidden"))) as server:
        path = secret_file(tmp_path, "url", f"http://127.0.0.1:{server.port}/services/{hidden}\n")
        channel = SlackChannel(path, fetch())
        await lab.park()
        notices = lab.telling(slack=channel, other=failing)
        for _ in range(20):
            await notices.tick()
            lab.clock.advance(100)
        assert b"/services/" + hidden.encode() in server.requests[0][1]
    assert "status 403" in lab.failed()[0]
    assert hidden not in repr(lab.audit.events)
    assert hidden not in repr(channel)


async def test_a_hanging_channel_leaves_the_call_waiting_and_the_others_told(lab: NoticeLab, tmp_path: Path) -> None:
    ops = Kept()
    async with RawServer(silent_after(b"")) as server:
        stuck = webhook(tmp_path, f"http://127.0.0.1:{server.port}/")
        notices = lab.notices({"stuck": listener(stuck), "ops": listener(ops)})
        call = await lab.park()
        await notices.plan()
        hanging = asyncio.create_task(notices.deliver("stuck"))
        await notices.deliver("ops")
        assert not hanging.done()
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
    assert ops.kinds == [Kind.REQUESTED]
    kept = await lab.parked.get(call.id)
    assert kept is not None
    assert kept.state is State.PENDING


def mail_server(lines: dict[bytes, bytes], greeting: bytes = b"220 mail ESMTP\r\n") -> tuple[Script, list[bytes]]:
    """A mail server that answers by the first word, and what it hears."""
    heard: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.send(greeting)
        while line := await peer.reader.readline():
            heard.append(line)
            await peer.send(lines.get(line.split()[0].upper(), b"250 ok\r\n"))

    return script, heard


def mail(port: int, directory: Path, security: Security, ca: Path | None = None, seconds: float = 20.0) -> MailChannel:
    server = MailServer("localhost", port, security, "bob", secret_file(directory, "password", SECRET), ca)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    return MailChannel(server, "t@example.com", ["a@example.com"], FakeClock(), resolve, seconds)


@pytest.mark.parametrize(
    "lines",
    [
        {b"EHLO": b"250-mail\r\n250 AUTH PLAIN LOGIN\r\n"},
        {b"EHLO": b"250-mail\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n", b"STARTTLS": b"454 not now\r\n"},
    ],
    ids=["not offered", "refused"],
)
async def test_nothing_is_said_to_a_mail_server_without_tls(
    lab: NoticeLab, tmp_path: Path, lines: dict[bytes, bytes]
) -> None:
    notice, (script, heard) = await told(lab), mail_server(lines)
    async with RawServer(script) as server:
        with pytest.raises(ChannelError) as caught:
            await mail(server.port, tmp_path, Security.STARTTLS).send(notice)
    assert "SMTP" in str(caught.value)
    assert {line.split()[0] for line in heard} <= {b"ehlo", b"STARTTLS"}


async def test_a_mail_server_must_prove_its_name(lab: NoticeLab, tmp_path: Path) -> None:
    notice, authority = await told(lab), Authority(tmp_path)
    script, heard = mail_server({})
    async with RawServer(script, tls=authority.server_context("other.example")) as server:
        with pytest.raises(ChannelError, match=r"(?i)certificate"):
            await mail(server.port, tmp_path, Security.TLS, authority.ca_file).send(notice)
    assert heard == []


async def test_a_mail_server_that_hangs_is_left_and_its_thread_ends(lab: NoticeLab, tmp_path: Path) -> None:
    notice = await told(lab)
    async with RawServer(mail_server({}, greeting=b"220-never ")[0]) as server:
        with pytest.raises(ChannelError, match="not taken within"):
            await mail(server.port, tmp_path, Security.NONE, seconds=0.05).send(notice)
        # The connection is closed from here, though the server said nothing more.
        async with asyncio.timeout(5):
            while server.open:
                await asyncio.sleep(0)


async def test_a_mail_server_that_answers_with_rubbish_is_one_that_did_not_take_it(
    lab: NoticeLab, tmp_path: Path
) -> None:
    notice = await told(lab)
    lines = {b"EHLO": b"250-mail\r\n250 AUTH CRAM-MD5\r\n", b"AUTH": b"334 a\r\n"}
    async with RawServer(mail_server(lines)[0]) as server:
        with pytest.raises(ChannelError) as caught:
            await mail(server.port, tmp_path, Security.NONE).send(notice)
    assert str(caught.value) == "localhost: Error"


async def test_a_mail_servers_words_stand_nowhere(lab: NoticeLab, tmp_path: Path) -> None:
    notice = await told(lab)
    lines = {b"EHLO": b"250-mail\r\n250 AUTH PLAIN\r\n", b"AUTH": b"535 wrong password %s\r\n" % SECRET.encode()}
    async with RawServer(mail_server(lines)[0]) as server:
        with pytest.raises(ChannelError) as caught:
            await mail(server.port, tmp_path, Security.NONE).send(notice)
    assert str(caught.value) == "localhost: SMTPAuthenticationError 535"
