"""Messages to a Slack channel by an incoming webhook (Block Kit). They link to the page; they have no buttons.

Whoever holds a webhook's URL can post to the channel, so the URL is a secret.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from twogate.adapters.notify.secret_file import read_line
from twogate.core.notices import Notice
from twogate.flows.approvals.notices import ChannelError
from twogate.flows.fetch import FetchError, MessagePost, Trust


class SlackChannel:
    """Posts to the incoming webhook whose URL a file holds."""

    def __init__(self, url_file: Path, post: MessagePost) -> None:
        self._url_file = url_file
        self._post = post

    async def send(self, notice: Notice) -> None:
        """See `Channel.send`.

        Raises:
            ChannelError: Slack did not take it.
        """
        url = read_line(self._url_file)
        try:
            await self._post.post_message(url, slack_message(notice), {}, trust=Trust.CONFIGURED)
        except FetchError as error:
            raise ChannelError(str(error)) from error


def slack_message(notice: Notice) -> bytes:
    """The message as JSON. Texts of strangers stand in code spans only, where Slack makes nothing of them."""
    facts = "\n".join(f"*{name}:* `{code(value)}`" for name, value in notice.facts())
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": notice.title, "emoji": False}},
        _section(facts),
        _section(f"<{notice.link}|Look at it in Twogate>" + (f"\n{notice.rest}" if notice.rest else "")),
    ]
    # `text` is what notifications show; there Slack would make links of names.
    return msgspec.json.encode(
        {"text": notice.title, "blocks": blocks, "unfurl_links": False, "unfurl_media": False, "link_names": False}
    )


def code(text: str) -> str:
    """Text that stays within a code span of Slack's markup, and is neither link, mention nor markup there."""
    return text.replace("`", "'").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") or "-"


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
