"""`twogate login`: let a person log in for this command line, on any device (RFC 8628)."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import Annotated, Final

import typer

from twogate.adapters.clock import SystemClock
from twogate.adapters.token_files import StoredTokens, TokenFileError, TokenFiles, default_directory
from twogate.cli.device_login import DeviceLogin, DevicePrompt
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_text, printable
from twogate.config import load_settings

FRESH: Final = 30
"""Seconds that a printed access token must still be valid; else it is refreshed first."""


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command("login")(login)


def login(  # noqa: PLR0913, PLR0917 - one per option
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="The Twogate to log in at; else public_url of the file.")
    ] = None,
    resource: Annotated[
        str, typer.Option(help="What the token is for: a URL or a path of this Twogate, such as /mcp/files.")
    ] = "",
    client_id: Annotated[str, typer.Option(help="The public client that an operator added for this.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="A scope to ask for; repeatable.")] = None,
    task: Annotated[str | None, typer.Option(help="The task that the token is for.")] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="The CA to trust, if it is not a public one.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser of this machine.")] = False,
    print_token: Annotated[
        bool, typer.Option("--print-token", help="Print the stored access token, refreshed if it is about to expire.")
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Revoke and remove what is stored.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Log in for this command line: shows a code that you enter in a browser on any device, and waits.

    The tokens are kept in a file for you alone, or printed with --json.
    """
    if not resource:
        raise typer.BadParameter("is missing: what the token is for, such as /mcp/files", param_hint="--resource")
    if print_token and forget:
        raise typer.BadParameter("--print-token and --forget exclude each other")
    issuer = (load_settings(config).public_url if url is None else url).rstrip("/")
    name = issuer + resource if resource.startswith("/") else resource
    files = TokenFiles(default_directory())
    try:
        if print_token:
            _print_token(_fresh(files, issuer, name, ca), as_json=as_json)
        elif forget:
            _forget(files, issuer, name, ca, as_json=as_json)
        else:
            if not client_id:
                raise typer.BadParameter("is missing: the public client to log in with", param_hint="--client-id")
            with _flow(issuer, client_id, ca) as flow:
                prompt = flow.begin(name, " ".join(scope or ()), task)
                _show(prompt, open_browser=open_browser)
                tokens = flow.finish(prompt, name)
            _keep(files, tokens, as_json=as_json)
    except TokenFileError as error:
        raise CommandError(str(error), code="token_file") from error


def _flow(issuer: str, client_id: str, ca: Path | None) -> DeviceLogin:
    return DeviceLogin(issuer, client_id, ca, SystemClock(), time.sleep)


def _show(prompt: DevicePrompt, *, open_browser: bool) -> None:
    # To stderr: with --json, stdout holds the one document and nothing else.
    minutes = max(1, prompt.expires_in // 60)
    for line in (
        f"Open {prompt.verification_uri} and enter the code {prompt.user_code}",
        f"or open {prompt.verification_uri_complete}",
        f"Waiting for up to {minutes} min; Ctrl-C ends it.",
    ):
        typer.echo(printable(line), err=True)
    if open_browser and not webbrowser.open(prompt.verification_uri_complete):
        typer.echo("No browser could be opened here.", err=True)


def _keep(files: TokenFiles, tokens: StoredTokens, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "issuer": tokens.issuer,
                "resource": tokens.resource,
                "scope": tokens.scope,
                "access_token": tokens.access_token,
                "expires_at": tokens.expires_at,
                "refresh_token": tokens.refresh_token,
            }
        )
        return
    path = files.save(tokens)
    print_text(f"Logged in at {tokens.issuer} for {tokens.resource}; the tokens are in {path}.")


def _fresh(files: TokenFiles, issuer: str, resource: str, ca: Path | None) -> StoredTokens:
    """The stored tokens with an access token that is good for a while."""
    with files.locked(issuer, resource):
        tokens = files.load(issuer, resource)
        if tokens is not None and SystemClock().now() + FRESH < tokens.expires_at:
            return tokens
        if tokens is None or tokens.refresh_token is None:
            raise CommandError(f"there is no login for {resource}; run `twogate login`", code="login_required")
        with _flow(issuer, tokens.client_id, ca) as flow:
            refreshed = flow.refresh(tokens)
        if refreshed is None:
            files.forget(issuer, resource)
            raise CommandError(f"the login for {resource} has ended; run `twogate login`", code="login_required")
        files.save(refreshed)
    return refreshed


def _print_token(tokens: StoredTokens, *, as_json: bool) -> None:
    if as_json:
        print_json({"access_token": tokens.access_token, "expires_at": tokens.expires_at})
    else:
        print_text(tokens.access_token)


def _forget(files: TokenFiles, issuer: str, resource: str, ca: Path | None, *, as_json: bool) -> None:
    with files.locked(issuer, resource):
        tokens = files.load(issuer, resource)
        if tokens is not None:
            # Revoked first: a token that only this file knew could not be revoked without it.
            with _flow(issuer, tokens.client_id, ca) as flow:
                flow.revoke(tokens)
            files.forget(issuer, resource)
    if as_json:
        print_json({"issuer": issuer, "resource": resource, "forgotten": tokens is not None})
    else:
        print_text("Revoked and removed." if tokens is not None else "Nothing was stored.")
