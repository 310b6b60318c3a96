"""What holds of the source as a whole, read from its syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from twogate.core.errors import FACES, ErrorCode
from twogate.web.errors import HTTP_FACES

SOURCE = Path(__file__).parents[1] / "src" / "twogate"
TREES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
CORE = {name: tree for name, tree in TREES.items() if name.startswith("core/")}

MAX_LINES = 400

# Each type that proves something, and the only modules that may make one (style: "each built in exactly one place").
PROOFS = {
    "UnverifiedJwt": {"core/jose/jwt.py"},
    "SignedClaims": {"core/jose/jwt.py"},
    "IntrospectedClaims": {"flows/gateway/introspection.py"},
    "VerificationKey": {"core/jose/keys.py"},
    "BearerToken": {"flows/gateway/credential.py"},
    "VerifiedToken": {"flows/gateway/verify_token.py"},
    "ClientCertificate": {"web/peer.py"},
    # What `twogate explain` asks about is no caller: see `hypothetical_principal`.
    "Principal": {"flows/gateway/authenticate.py", "flows/hypothetical.py"},
    "Call": {"flows/gateway/read.py"},
    "Admitted": {"flows/gateway/admit.py"},
    "Recorded": {"flows/gateway/record.py"},
}


@cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in nodes(tree):
        if isinstance(node, ast.Call) and name in (getattr(node.func, "id", None), getattr(node.func, "attr", None)):
            yield node


def imported(tree: ast.AST) -> set[str]:
    """The modules that a tree imports, by their full names."""
    found: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            found.add(node.module or "")
    return found


def test_a_module_has_at_most_400_lines_and_says_what_it_is_for() -> None:
    long = {name for name in TREES if len((SOURCE / name).read_text().splitlines()) > MAX_LINES}
    silent = {name for name, tree in TREES.items() if not ast.get_docstring(tree) and "versions/" not in name}
    assert (long, silent) == (set(), set())


@pytest.mark.parametrize("proof", PROOFS)
def test_what_proves_something_is_made_in_one_place(proof: str) -> None:
    assert {name for name, tree in TREES.items() if any(calls(tree, proof))} == PROOFS[proof]


def test_explaining_makes_its_principal_in_the_function_that_says_it_is_none() -> None:
    makers = [
        node.name
        for node in nodes(TREES["flows/hypothetical.py"])
        if isinstance(node, ast.FunctionDef) and any(calls(node, "Principal"))
    ]
    assert makers == ["hypothetical_principal"]


# The libraries that the core may use: none of them reads or writes anything but its arguments.
PURE = re.compile(
    r"twogate\.core(\..+)?|__future__|typing|collections(\.abc)?|enum|types|functools|dataclasses|itertools|operator"
    r"|re|json|math|hmac|hashlib|base64|binascii|unicodedata|ipaddress|fractions|urllib\.parse|datetime|msgspec|jiter|rfc8785"
    r"|joserfc(\..+)?|cryptography(\..+)?|codecs"
)


def test_the_core_waits_for_nothing_and_reads_nothing_but_its_arguments() -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    for name, tree in CORE.items():
        assert [module for module in imported(tree) if not PURE.fullmatch(module)] == [], name
        assert not [node for node in nodes(tree) if isinstance(node, waiting)], name
        for banned in ("open", "print", "input", "exec", "eval"):
            assert not [call for call in calls(tree, banned) if isinstance(call.func, ast.Name)], name


def handlers(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    for node in nodes(tree):
        if isinstance(node, ast.ExceptHandler):
            yield node


def caught(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def test_every_exception_is_caught_only_at_the_very_edge() -> None:
    edge = {name for name, tree in TREES.items() for handler in handlers(tree) if "Exception" in caught(handler)}
    # A command, and an attempt to reload, whose failure must leave the process serving.
    assert edge == {"cli/main.py", "reload.py"}


def test_whoever_catches_even_cancellations_lets_them_go_on() -> None:
    for name, tree in TREES.items():
        for handler in handlers(tree):
            if caught(handler) & {"BaseException", "CancelledError"}:
                last = handler.body[-1]
                # The gateway alone may end one: where it caused it, because the client went away.
                let_on = isinstance(last, ast.Raise) or (name == "web/gateway.py" and isinstance(last, ast.If))
                assert let_on, f"{name}:{handler.lineno}"


def test_no_check_is_switched_off() -> None:
    switches = {"verify", "check_hostname", "verify_signature", "verify_exp", "verify_aud"}
    for name, tree in TREES.items():
        for node in nodes(tree):
            if isinstance(node, ast.keyword) and node.arg in switches:
                assert not (isinstance(node.value, ast.Constant) and node.value.value is False), name
            if isinstance(node, ast.Attribute):
                unsafe = {"check_hostname", "_create_unverified_context", "_create_default_https_context"}
                # A server that asks its clients for no certificate says so.
                assert node.attr not in (unsafe if name == "web/tls.py" else unsafe | {"CERT_NONE"}), name


def test_an_ignored_finding_names_its_code() -> None:
    for name in TREES:
        for line in (SOURCE / name).read_text().splitlines():
            assert not re.search(r"#\s*(type|pyright):\s*ignore(?!\[)", line), f"{name}: {line}"
            assert not re.search(r"#\s*noqa(?!: [A-Z])", line), f"{name}: {line}"


def used_codes() -> set[str]:
    """The members of `ErrorCode` that some module other than the two tables names."""
    tables = {"core/errors.py", "web/errors.py"}
    return {
        node.attr
        for name, tree in TREES.items()
        if name not in tables
        for node in nodes(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ErrorCode"
    }


def test_every_error_code_is_used_and_stands_in_both_tables() -> None:
    assert {code.name for code in ErrorCode} - used_codes() == set()
    assert set(FACES) == set(HTTP_FACES) == set(ErrorCode)


def test_no_module_reads_members_of_a_message_by_its_raw_bytes_upstream() -> None:
    # What goes upstream is encoded from what was parsed (row R-44): the pipeline never hands on the body it read.
    readers = {name for name, tree in TREES.items() if any(calls(tree, "read_body"))}
    # The exchange of the old transport reads that of the POST which it stands for.
    assert readers <= {"flows/gateway/read.py", "flows/declare.py", "flows/operations/mint.py", "web/legacy.py"}
    # Calls, and the gateway's own asking for a server's tools.
    senders = {"flows/gateway/forward.py", "flows/gateway/catalogue_fetch.py"}
    assert {name for name, tree in TREES.items() if any(calls(tree, "UpstreamRequest"))} == senders
