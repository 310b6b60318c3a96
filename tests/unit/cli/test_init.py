import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from twogate.cli.init import _write
from twogate.cli.main import app
from twogate.config import TcpAddress, load_settings

FILES = ["ca.key", "ca.pem", "server.key", "server.pem", "twogate.yaml"]


def init(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["init", *args])
    return result.exit_code, result.stdout, result.stderr


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_writes_a_configuration_that_is_valid_and_denies_everything(tmp_path: Path) -> None:
    code, out, _ = init(str(tmp_path / "new" / "place"))
    assert code == 0
    place = tmp_path / "new" / "place"
    assert sorted(path.name for path in place.iterdir()) == sorted([*FILES, "state"])
    settings = load_settings(place / "twogate.yaml")
    assert settings.public_url == "https://localhost:8443"
    assert settings.listen == TcpAddress("127.0.0.1", 8443)
    assert settings.state_directory == place / "state"
    assert not settings.agents
    assert not settings.tools
    assert all(not tenant.servers for tenant in settings.tenants.values())
    assert "twogate serve" in out


def test_keys_and_state_are_for_the_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert init(str(tmp_path))[0] == 0
    finally:
        os.umask(old)
    assert {name: mode(tmp_path / name) for name in ("ca.key", "server.key")} == {"ca.key": 0o600, "server.key": 0o600}
    assert mode(tmp_path / "state") == 0o700


def test_the_certificate_names_the_host_and_comes_from_the_local_authority(tmp_path: Path) -> None:
    assert init(str(tmp_path))[0] == 0
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    key = load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    assert key.public_key() == server.public_key()
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(item) for item in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert authority.serial_number != server.serial_number
    assert min(authority.serial_number, server.serial_number).bit_length() > 128


def test_another_public_url_gives_its_own_certificate_and_address(tmp_path: Path) -> None:
    assert init(str(tmp_path), "--public-url", "https://MCP.example.com/")[0] == 0
    settings = load_settings(tmp_path / "twogate.yaml")
    assert settings.public_url == "https://mcp.example.com"
    assert settings.listen == TcpAddress("0.0.0.0", 443)
    server = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [item.value for item in names] == ["mcp.example.com"]


@pytest.mark.parametrize("url", ["https://127.0.0.1:9443", "https://[::1]:9443", "https://192.0.2.7:9443"])
def test_an_address_works_as_public_url(tmp_path: Path, url: str) -> None:
    assert init(str(tmp_path), "--public-url", url)[0] == 0
    assert load_settings(tmp_path / "twogate.yaml").public_url == url


def test_http_on_this_machine_needs_no_certificates(tmp_path: Path) -> None:
    assert init(str(tmp_path), "--public-url", "http://localhost:8080")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "twogate.yaml"]
    assert load_settings(tmp_path / "twogate.yaml").tls is None


@pytest.mark.parametrize("name", [*FILES, "state"])
def test_it_overwrites_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, _, err = init(str(tmp_path))
    assert code == 1
    assert f"already holds {name}" in err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "server.key").symlink_to(tmp_path / "elsewhere")
    code, _, err = init(str(tmp_path), "--json")
    assert (code, err) == (1, "")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "url", ["http://mcp.example.com", "https://mcp.example.com/path", "x", "https://u:p@h.example"]
)
def test_a_public_url_that_cannot_be_is_wrong_use(tmp_path: Path, url: str) -> None:
    code, _, err = init(str(tmp_path / "new"), "--public-url", url)
    assert code == 2
    assert "--public-url" in err
    assert not (tmp_path / "new").exists()


def test_json_is_one_document(tmp_path: Path) -> None:
    code, out, _ = init(str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out) == {"directory": str(tmp_path), "files": FILES, "public_url": "https://localhost:8443"}


def test_a_place_that_cannot_be_written_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, _, err = init(str(tmp_path / "file" / "sub"))
    assert code == 1
    assert err.startswith("twogate: ")
    assert "Traceback" not in err


def test_a_failure_halfway_leaves_nothing_of_ours_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _write(tmp_path, {"first": (b"x", 0o600), "missing/second": (b"x", 0o600)})
    assert list(tmp_path.iterdir()) == []


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twogate.cli.main", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_process_s_exit_codes_tell_done_refused_and_wrong_use_apart(tmp_path: Path) -> None:
    done = run("init", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert run("check", cwd=tmp_path).returncode == 0
    again = run("init", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "already holds" in again.stderr
    wrong = run("init", "--nonsense", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "nonsense" in wrong.stderr
    assert run(cwd=tmp_path).returncode == 2
    assert run("nonsense", cwd=tmp_path).returncode == 2
    version = run("--version", cwd=tmp_path)
    assert (version.returncode, version.stdout.count(".")) == (0, 2)
    as_json = run("init", "--nonsense", "--json", cwd=tmp_path)
    assert (as_json.returncode, as_json.stderr) == (2, "")
    assert json.loads(as_json.stdout)["error"]["code"] == "usage"
