"""`twogate operation issue`: sign for one call, as a host or an authorizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, cast
from urllib.parse import quote_plus

import httpx2
import msgspec
import typer
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.origin import open_origin
from twogate.cli.output import CommandError, one_line, print_json, print_text
from twogate.config import load_settings
from twogate.core import strict_json
from twogate.core.errors import GateError
from twogate.core.jose.jwt import MAX_TOKEN
from twogate.core.message import MAX_DEPTH
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.oauth.metadata import TOKEN_PATH
from twogate.core.oauth.resource import OPERATIONS_PATH, TOKENS_PATH
from twogate.core.operation import MAX_CALL

MAX_CREDENTIALS: Final = 64 * 1024
"""Bytes of a file with a client's credentials."""

_OK: Final = 200
_ASSERTION_SECONDS: Final = 60
_MAX_TOLD: Final = 200

app = typer.Typer(help="Operation tokens: a call that may run once.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="operation")


@app.callback()
def _noun() -> None: ...


class _Credentials(msgspec.Struct, frozen=True):
    """What `twogate client add --json` prints of a client, as far as it is needed here."""

    client_id: str
    client_secret: str | None = None
    private_key_pem: str | None = None

    def __repr__(self) -> str:
        """Never the secret nor the key."""
        return f"_Credentials({self.client_id!r}, …)"


@app.command("issue")
def issue(  # noqa: PLR0913, PLR0917 - one per option
    session: Annotated[str, typer.Option(metavar="SESSION", help="The agent's session, as `GET /sessions` shows it.")],
    tool: Annotated[str, typer.Option(metavar="TARGET", help="What may run: server.tool, server.prompt:NAME, ….")],
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="The Twogate that issues it; else public_url of the file.")
    ] = None,
    arguments: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The call's arguments, a JSON object; none if left out.")
    ] = None,
    input_responses: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The answers to what the server asked, a JSON object.")
    ] = None,
    params: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Other members of the message's params, a JSON object.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The method, where the target leaves a choice: tools/call and its like if not.")
    ] = None,
    client: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The authorizer's credentials, as `twogate client add --json` printed them."),
    ] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="The CA to trust, if it is not a public one.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Print a token that lets one call run once. Look at the arguments: you answer for them.

    The access token for `/operations` is read from standard input, unless --client says how to get one.
    """
    origin = (load_settings(config).public_url if url is None else url).rstrip("/")
    body: dict[str, Any] = {"sid": session, "tool": tool}
    for name, path in (("arguments", arguments), ("input_responses", input_responses), ("params", params)):
        if path is not None:
            body[name] = _object(path)
    if method is not None:
        body["method"] = method
    with open_origin(origin, ca) as http:
        token = _from_stdin() if client is None else _token(http, origin, _credentials(client))
        answer = _post(http, origin + TOKENS_PATH, json=body, headers={"authorization": f"Bearer {token}"})
    try:
        issued = msgspec.convert(answer, _Issued)
    except msgspec.ValidationError:
        raise CommandError("the server's answer holds no operation token", code="answer_invalid") from None
    if as_json:
        print_json(msgspec.to_builtins(issued))
    else:
        print_text(issued.operation_token)


class _Issued(msgspec.Struct, frozen=True):
    operation_token: str
    expires_in: int
    digest: str


def _from_stdin() -> str:
    token = typer.get_text_stream("stdin", errors="replace").read(MAX_TOKEN + 2).strip()
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise CommandError(
            "no access token was given on standard input; `twogate login --resource /operations --print-token` "
            "prints a host's, and --client gets an authorizer's"
        )
    return token


def _object(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(MAX_CALL + 1)
    try:
        value = strict_json.decode(raw, max_bytes=MAX_CALL, max_depth=MAX_DEPTH)
    except GateError as error:
        raise CommandError(f"{path}: {error.face.text}", code=error.code.value) from None
    if not isinstance(value, dict):
        raise CommandError(f"{path} must hold a JSON object", code="usage")
    return cast("dict[str, Any]", value)


def _credentials(path: Path) -> _Credentials:
    with path.open("rb") as file:
        raw = file.read(MAX_CREDENTIALS)
    try:
        found = msgspec.json.decode(raw, type=_Credentials)
    except msgspec.MsgspecError:
        raise CommandError(f"{path} holds no credentials as `twogate client add --json` prints them") from None
    if (found.client_secret is None) == (found.private_key_pem is None):
        raise CommandError(f"{path} must hold either a client_secret or a private_key_pem")
    return found


def _token(http: httpx2.Client, origin: str, credentials: _Credentials) -> str:
    """An access token for operations, by the client credentials grant."""
    form = {"grant_type": "client_credentials", "resource": origin + OPERATIONS_PATH}
    if credentials.client_secret is not None:
        # Each part is form-encoded first (RFC 6749 section 2.3.1).
        pair = (quote_plus(credentials.client_id), quote_plus(credentials.client_secret))
        answer = _post(http, origin + TOKEN_PATH, data=form, auth=pair)
    else:
        form |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": _assertion(origin, credentials)}
        answer = _post(http, origin + TOKEN_PATH, data=form)
    token = answer.get("access_token")
    if not isinstance(token, str):
        raise CommandError("the server's answer holds no access token", code="answer_invalid")
    return token


def _assertion(origin: str, credentials: _Credentials) -> str:
    """What proves the client (RFC 7523 section 3)."""
    now = SystemClock().now()
    claims = {
        "iss": credentials.client_id,
        "sub": credentials.client_id,
        "aud": origin,
        "iat": now,
        "exp": now + _ASSERTION_SECONDS,
        "jti": SystemRng().token(16).hex(),
    }
    pem = credentials.private_key_pem or ""
    for kind, algorithm in ((ECKey, "ES256"), (OKPKey, "Ed25519"), (RSAKey, "RS256")):
        try:
            key = kind.import_key(pem)
        except (JoseError, ValueError, TypeError):
            continue
        return jws.serialize_compact(
            {"alg": algorithm, "typ": "JWT"}, msgspec.json.encode(claims), key, algorithms=[algorithm]
        )
    raise CommandError("private_key_pem is no private key that clients sign with")


def _post(http: httpx2.Client, url: str, **sent: Any) -> dict[str, Any]:  # noqa: ANN401 - as httpx2 has them
    try:
        answer = http.post(url, **sent)
    except httpx2.HTTPError as error:
        raise CommandError(f"{url} cannot be reached: {type(error).__name__}", code="unreachable") from error
    try:
        body: object = answer.json()
    except ValueError:
        body = None
    if answer.status_code != _OK or not isinstance(body, dict):
        raise _refused(url, answer.status_code, body)
    return cast("dict[str, Any]", body)


def _refused(url: str, status: int, body: object) -> CommandError:
    """The server's own words: an OAuth error at the token endpoint, a JSON-RPC one elsewhere."""
    code, text = f"HTTP {status}", ""
    if isinstance(body, dict):
        told = cast("dict[str, Any]", body)
        error = told.get("error")
        if isinstance(error, dict):
            face = cast("dict[str, Any]", error)
            data: object = face.get("data")
            code = str(cast("dict[str, Any]", data).get("reason", code)) if isinstance(data, dict) else code
            text = str(face.get("message", ""))
        elif isinstance(error, str):
            code, text = error, str(told.get("error_description", ""))
    words = one_line(f"{code[:_MAX_TOLD]} {text[:_MAX_TOLD]}")
    return CommandError(f"{url} refused: {words}".rstrip(), code=code[:_MAX_TOLD])
