"""The setting `sandbox`: its values, what must not be shown, and what this system and user can do."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from pydantic import BaseModel

from twogate.adapters.upstream.stdio_plan import Account
from twogate.cli.check import check as check_command
from twogate.config import ConfigError, Settings, StdioServer, load_settings
from twogate.config.references_sandbox import SECRET_FIELDS, private_directories, sandbox_problems
from twogate.sandboxes import check_sandboxes, sandbox_plan, unsandboxed

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives servers accounts")
linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

# Files that Twogate only reads, and that hold nothing secret. A new path setting belongs here or to SECRET_FIELDS.
PUBLIC_FIELDS = {
    "certificate", "ca", "store_ca", "shared_ca", "client_ca", "jwks_file", "cwd", "state", "readable", "writable",
}  # fmt: skip


def load(directory: Path, server: dict[str, Any], **others: Any) -> Settings:
    """Settings whose state lies in `state` below the directory, with one stdio server."""
    document = {
        "public_url": "http://localhost:8443",
        "listen": "127.0.0.1:8443",
        "store": f"sqlite:///{directory}/state/twogate.db",
        "tenants": {"acme": {"servers": ["git"]}},
        "servers": {"git": {"command": ["mcp-server-git"], **server}},
        **others,
    }
    path = directory / "twogate.yaml"
    path.write_text(json.dumps(document))
    (directory / "state").mkdir(exist_ok=True)
    (directory / "repository").mkdir(exist_ok=True)
    return load_settings(path)


def problems(directory: Path, server: dict[str, Any], **others: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, server, **others)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def of(settings: Settings) -> StdioServer:
    server = settings.servers["git"]
    assert isinstance(server, StdioServer)
    return server


def path_fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """The name of every setting that is a path, in every model below this one."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        waiting: list[Any] = [field.annotation]
        while waiting:
            part = waiting.pop()
            if part is Path:
                yield name
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from path_fields(part, seen)
            waiting += get_args(part)


def test_every_file_that_settings_name_is_known_to_be_secret_or_not() -> None:
    fields = set(path_fields(Settings, set()))
    assert {"key", "writable"} <= fields
    assert fields == SECRET_FIELDS | PUBLIC_FIELDS


def test_a_sandbox_gives_nothing_that_is_not_named(tmp_path: Path) -> None:
    server = of(load(tmp_path, {"sandbox": {}}))
    assert server.sandbox is not None
    assert (server.sandbox.network, server.sandbox.readable, server.sandbox.writable) == ("none", (), ())
    plan = sandbox_plan(server, load(tmp_path, {"sandbox": {}}))
    assert plan is not None
    assert not plan.network
    assert plan.writable == ()
    assert tmp_path.resolve() / "state" in plan.hidden
    assert plan.accounts is None


def test_without_the_setting_there_is_no_sandbox_and_a_warning(tmp_path: Path) -> None:
    settings = load(tmp_path, {})
    assert sandbox_plan(of(settings), settings) is None
    (warning,) = unsandboxed(settings)
    assert warning.startswith("servers.git: runs without a sandbox")
    assert list(unsandboxed(load(tmp_path, {"sandbox": {}}))) == []


def test_directories_of_secrets_and_state_are_private(tmp_path: Path) -> None:
    for name in ("keys", "run"):
        (tmp_path / name).mkdir()
    key, certificate = tmp_path / "keys" / "tls.key", tmp_path / "keys" / "tls.pem"
    for path in (key, certificate):
        path.write_text("x")
        path.chmod(0o600)
    settings = load(
        tmp_path,
        {"sandbox": {}},
        public_url="https://localhost",
        tls={"certificate": str(certificate), "key": str(key)},
        state=str(tmp_path / "elsewhere"),
    )
    here = tmp_path.resolve()
    assert private_directories(settings) == {here / "keys", here / "state", here / "elsewhere"}
    socket = load(tmp_path, {"sandbox": {}}, public_url="https://localhost", listen=f"unix:{tmp_path}/run/s")
    assert here / "run" in private_directories(socket)


@pytest.mark.parametrize(
    ("sandbox", "said"),
    [
        ({"writable": ["{}"]}, "servers.git.sandbox.writable[0]: {} holds {}/state, where Twogate keeps"),
        ({"writable": ["{}/state"]}, "servers.git.sandbox.writable[0]: {}/state lies in {}/state, where Twogate keeps"),
        ({"readable": ["{}/state/a"]}, "servers.git.sandbox.readable[0]: {}/state/a lies in {}/state, where Twogate"),
        ({"writable": ["{}/nowhere"]}, "servers.git.sandbox.writable[0]: {}/nowhere is not a directory"),
        ({"writable": ["/dev/shm"]}, "servers.git.sandbox.writable[0]: cannot be shown: /dev, /proc and /sys are the"),
        ({"writable": ["/"]}, "servers.git.sandbox.writable[0]: must be a path"),
        ({"writable": []}, "servers.git.sandbox.writable: must not be empty"),
        ({"users": {}}, "servers.git.sandbox.users: must not be empty"),
        ({"users": {"acme": "no such"}}, "servers.git.sandbox.users.acme: must be the name of an account"),
        ({"users": {"other": "nobody"}}, "servers.git.sandbox.users: names no account for acme"),
        ({"users": {"acme": "nobody", "x": "daemon"}}, "servers.git.sandbox.users.x: unknown tenant 'x'"),
        ({"network": "some"}, "servers.git.sandbox.network: must be one of 'none' or 'host'"),
        ({"memory": "1MiB"}, "servers.git.sandbox.memory: must be at least 67108864 bytes"),
        ({"processes": 0}, "servers.git.sandbox.processes: must be at least 1"),
        ({"net": "none"}, "servers.git.sandbox.net: is not a setting of this version (did you mean 'network'?)"),
    ],
)
def test_each_mistake_names_its_setting(tmp_path: Path, sandbox: dict[str, Any], said: str) -> None:
    (tmp_path / "state" / "a").mkdir(parents=True)
    here = str(tmp_path.resolve())
    filled = {
        key: [item.replace("{}", here) for item in value] if isinstance(value, list) else value
        for key, value in sandbox.items()
    }
    found = problems(tmp_path, {"sandbox": filled})
    assert any(item.startswith(said.replace("{}", here)) for item in found), found


def test_a_link_into_the_state_is_seen_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    (tmp_path / "state").mkdir()
    (found,) = problems(tmp_path, {"cwd": str(tmp_path / "link"), "sandbox": {}})
    assert found.startswith("servers.git.cwd: ")


def test_a_program_that_would_be_hidden_is_found_out(tmp_path: Path) -> None:
    program = "/home/somebody/server/run"
    (found,) = problems(tmp_path, {"command": [program], "sandbox": {}})
    assert found.startswith("servers.git.command: lies in /home, which the sandbox hides")


def test_a_secret_in_a_directory_that_everything_needs_is_refused(tmp_path: Path) -> None:
    settings = load(tmp_path, {"sandbox": {}}).model_copy(update={"store_password": Path("/etc/password")})
    (found,) = sandbox_problems(settings, frozenset())
    assert found[0] == ("servers", "git", "sandbox")
    assert found[1].startswith("would have to hide /etc")


def test_several_tenants_need_an_account_each(tmp_path: Path) -> None:
    two = {"acme": {"servers": ["git"]}, "globex": {"servers": ["git"]}}
    (found,) = problems(tmp_path, {"sandbox": {}}, tenants=two)
    assert found.startswith("servers.git.command: runs as Twogate's own user, which several tenants must not share")
    (found,) = problems(tmp_path, {"sandbox": {"users": {"acme": "nobody", "globex": "nobody"}}}, tenants=two)
    assert "the account 'nobody' is acme's already" in found
    server = of(load(tmp_path, {"sandbox": {"users": {"acme": "nobody", "globex": "daemon"}}}, tenants=two))
    assert server.sandbox is not None


def refused(directory: Path, server: dict[str, Any], **others: Any) -> list[str]:
    settings = load(directory, server, **others)
    with pytest.raises(ConfigError) as caught:
        check_sandboxes(directory / "twogate.yaml", settings)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


@linux
@root
def test_under_root_a_server_needs_an_account_that_is_not_roots(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, {"sandbox": {}})
    assert found.startswith("servers.git.sandbox.users: is missing: Twogate runs as root")
    (found,) = refused(tmp_path, {"sandbox": {"users": {"acme": "root"}}})
    assert found.startswith("servers.git.sandbox.users.acme: is an account of root's")
    (found,) = refused(tmp_path, {"sandbox": {"users": {"acme": "no-such-account"}}})
    assert found == "servers.git.sandbox.users: no-such-account: no such account"


@linux
def test_accounts_are_roots_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (found,) = refused(tmp_path, {"sandbox": {"users": {"acme": "nobody"}}})
    assert found.startswith("servers.git.sandbox.users: needs Twogate to run as root")


@linux
@root
def test_two_names_of_one_user_id_are_one_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(pwd, "getpwnam", lambda name: nobody)
    two = {"acme": {"servers": ["git"]}, "globex": {"servers": ["git"]}}
    users = {"acme": "nobody", "globex": "somebody"}
    found = refused(tmp_path, {"sandbox": {"users": users}}, tenants=two)
    assert "servers.git.sandbox.users.globex: has the user id of acme's account; tenants must not share one" in found


def test_elsewhere_than_on_linux_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (found,) = refused(tmp_path, {"sandbox": {}})
    assert found.startswith("servers.git.sandbox: needs Linux")


@linux
def test_what_the_system_cannot_do_is_an_error_and_never_a_weaker_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A launcher that fails as on a system where namespaces are forbidden.
    broken = tmp_path / "launcher.py"
    broken.write_text("import sys\nsys.exit('twogate sandbox: a user namespace: Operation not permitted')\n")
    monkeypatch.setattr("twogate.adapters.upstream.stdio_sandbox.__file__", str(broken))
    server: dict[str, Any] = {"sandbox": {"users": {"acme": "nobody"}} if os.geteuid() == 0 else {}}
    (found,) = refused(tmp_path, server)
    assert found == "servers.git.sandbox: cannot be built here: a user namespace: Operation not permitted"
    with pytest.raises(ConfigError):
        check_command(config=tmp_path / "twogate.yaml")


def test_of_nested_paths_the_longest_decides(tmp_path: Path) -> None:
    settings = load(tmp_path, {"sandbox": {"writable": [str(tmp_path / "repository")]}})
    plan = sandbox_plan(of(settings), settings)
    assert plan is not None
    here = tmp_path.resolve()
    changed = msgspec.structs.replace(plan, readable=(here,), accounts={"acme": Account(7, 8)})
    told = json.loads(changed.launcher("acme", here / "repository")[-1])
    places = [path for path, _ in told["mounts"]]
    assert places == sorted(places, key=lambda path: Path(path).parts)
    kinds = dict(told["mounts"])
    assert (kinds[str(here)], kinds[f"{here}/state"], kinds[f"{here}/repository"]) == ("read", "hide", "write")
    assert (told["uid"], told["gid"], told["cwd"]) == (7, 8, f"{here}/repository")
    assert "/tmp" not in kinds  # it has one of its own
