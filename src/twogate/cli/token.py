"""`twogate token revoke`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_text
from twogate.cli.state import with_state
from twogate.core.jose.jwt import MAX_TOKEN
from twogate.flows.authserver.revocations import MAX_VALUE, Revocations
from twogate.flows.authserver.token_admin import Revoked, TokenAdmin
from twogate.state import State
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.revocations import SqlRevocationStore

_EFFECT: Final = {
    "token": "Access token {name} is revoked.",
    "grant": "Grant {name} is ended: its refresh token and its access tokens are revoked.",
}

app = typer.Typer(help="Tokens that were issued.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="token")


@app.callback()
def _noun() -> None: ...


@app.command("revoke")
def revoke(
    jti: Annotated[str | None, typer.Option(help="Instead of a token: its jti, as the audit trail has it.")] = None,
    grant: Annotated[str | None, typer.Option(help="Instead of a token: the grant whose tokens all end.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Revoke an access token, or a refresh token with its grant: refused from the next request on.

    The token is read from standard input: a command line can be seen by others.
    """
    if jti is not None and grant is not None:
        raise typer.BadParameter("goes without --jti", param_hint="--grant")
    for option, name in (("--jti", jti), ("--grant", grant)):
        if name is not None and not (0 < len(name) <= MAX_VALUE and name.isprintable()):
            raise typer.BadParameter("is no name of one", param_hint=option)
    token = "" if jti or grant else typer.get_text_stream("stdin", errors="replace").read(MAX_TOKEN + 2).strip()
    if not (token or jti or grant):
        raise CommandError("no token was given on standard input; or name one by --jti or --grant")

    async def run(state: State) -> Revoked:
        if not state.settings.embedded.enabled:
            raise CommandError("the embedded authorization server is off (embedded.enabled): it issued no tokens")
        admin = TokenAdmin(
            state.settings.public_url,
            SqlGrantStore(state.engine),
            Revocations(SqlRevocationStore(state.engine)),
            state.audit,
            state.clock,
        )
        if jti is not None:
            return await admin.revoke_jti(jti)
        return await (admin.revoke(token) if grant is None else admin.revoke_grant(grant))

    revoked = with_state(config, run)
    if as_json:
        print_json({"kind": revoked.kind, "name": revoked.name, "changed": revoked.changed})
    elif revoked.changed:
        print_text(_EFFECT[revoked.kind].format(name=revoked.name))
    else:
        print_text(f"Grant {revoked.name} was ended already.")
