"""What a call names, compared with what was approved and with what the call says of itself (rows R-43, R-44).

In this order: 1. what was approved, if something was or has to be; 2. what the server shows now is just that; 3. the
headers that mirror arguments say what the arguments say; 4. the arguments are valid by the schema that was approved.

The server is asked for its list by the gateway itself, and a list may be used for a while (`catalogue.MAX_AGE`). So a
server that shows one thing and does another is not found out here: nobody can see what it does.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.arguments import ArgumentChecks
from twogate.flows.gateway.exchange import Header
from twogate.flows.gateway.param_headers import Catalogue, headers_of, param_headers
from twogate.flows.gateway.pins import Change, PinBook
from twogate.flows.gateway.read import Call

_TOOL: Final = "tools/call"
_NAMED: Final = frozenset({_TOOL, "prompts/get"})


class Checked(msgspec.Struct, frozen=True):
    """What a call's check brought: the headers to send upstream, and the digest that was approved, in hex.

    `pin` is empty if nothing was approved and nothing had to be.
    """

    headers: tuple[Header, ...] = ()
    pin: str = ""


_UNCHECKED: Final = Checked()


class ToolCheck:
    """Checks calls. What `required` servers have must be approved; at `validated` ones arguments are checked."""

    def __init__(
        self,
        book: PinBook,
        arguments: ArgumentChecks,
        catalogue: Catalogue,
        *,
        required: frozenset[str],
        validated: frozenset[str],
    ) -> None:
        self._book = book
        self._arguments = arguments
        self._catalogue = catalogue
        self._required = required
        self._validated = validated

    async def check(self, call: Call) -> Checked:
        """Check one call. The server may have to be asked for its list, and take its time.

        Raises:
            GateError: TOOL_NOT_APPROVED, TOOL_CHANGED, ARGUMENTS_INVALID, TOOL_INVALID, HEADER_MISMATCH;
                UPSTREAM_UNAVAILABLE (what it shows cannot be had); STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        name = _pinned_name(call)
        if name is None:
            return _UNCHECKED
        # 1.
        tenant, server, target = call.principal.tenant, call.head.server, call.targets[0]
        approved = (await self._book.of(tenant, server)).digests.get(target)
        if approved is None:
            if server in self._required:
                raise GateError(ErrorCode.TOOL_NOT_APPROVED, "nobody approved it (pins: required)")
            headers = await param_headers(call, self._catalogue)
            return Checked(headers) if headers else _UNCHECKED
        # 2. and 3.
        headers = await self._agreed(call, name, approved)
        # 4.
        if call.message.method == _TOOL and server in self._validated:
            arguments: object = call.message.params.get("arguments", {})
            await self._arguments.check(tenant, server, target, approved, arguments)
        if (await self._book.of(tenant, server)).digests.get(target) != approved:
            raise GateError(ErrorCode.TOOL_CHANGED, "the approval was changed or withdrawn in the meantime")
        return Checked(headers, approved.hex())

    async def _agreed(self, call: Call, name: str, approved: bytes) -> tuple[Header, ...]:
        """The headers of a call whose tool or prompt the server shows as it was approved."""
        tenant, server = call.principal.tenant, call.head.server
        listing = self._catalogue.tools if call.message.method == _TOOL else self._catalogue.prompts
        # What does not fit may have been made right since, by server or operator: it is looked at again.
        listed = await listing(tenant, server)
        found = listed.tools.get(name)
        if found is not None and found.digest == approved:
            with suppress(GateError):
                return headers_of(call, found)
        listed = await listing(tenant, server, newer_than=listed)
        found = listed.tools.get(name)
        if found is not None and found.digest == approved:
            return headers_of(call, found)
        target = call.targets[0]
        change = Change(target) if found is None else Change(target, found.digest, found.shape)
        await self._book.note(tenant, server, (change,))
        raise GateError(
            ErrorCode.TOOL_CHANGED,
            "the server does not list it any more" if found is None else "the server shows it otherwise than approved",
        )


def _pinned_name(call: Call) -> str | None:
    """The name in the server's lists of what a call acts on; None if that is nothing that is pinned."""
    method, params = call.message.method, call.message.params
    if method in _NAMED:
        return cast("str", params["name"])
    if method == "completion/complete":
        ref = cast("dict[str, Any]", params["ref"])
        return cast("str", ref["name"]) if ref["type"] == "ref/prompt" else None
    return None
