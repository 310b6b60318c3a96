"""Listening, TLS, Unix sockets, the peer's certificate, and ending on a signal."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgelab import HOST, PATIENCE, RunningEdge, answer, read_to_end, request, running_edge, until
from twogate.adapters.clock import SystemClock
from twogate.config.values import TcpAddress
from twogate.web.edge_limits import EdgeLimits
from twogate.web.listen import ListenError, hosts_of, serve
from twogate.web.peer import PEER_CERTIFICATE
from twogate.web.tls import TlsError, TlsFiles, server_context

CLOSE = b"Connection: close"


class Identity:
    """A self-signed certificate and its key, as PEM files."""

    def __init__(self, directory: Path, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=36500))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.certificate = directory / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key = directory / f"{name}.key"
        self.key.write_bytes(self._pem(key, serialization.NoEncryption()))
        self.locked_key = directory / f"{name}.locked.key"
        self.locked_key.write_bytes(self._pem(key, serialization.BestAvailableEncryption(b"secret")))

    @staticmethod
    def _pem(key: ec.EllipticCurvePrivateKey, lock: serialization.KeySerializationEncryption) -> bytes:
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("server"), "server")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("agent"), "agent")


def client_context(server: Identity, agent: Identity | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=server.certificate)
    if agent is not None:
        context.load_cert_chain(agent.certificate, agent.key)
    return context


# --- TLS


def test_over_tls_the_application_sees_https_and_no_certificate(server: Identity) -> None:
    files = TlsFiles(certificate=server.certificate, key=server.key)
    with running_edge(tls=files, client_tls=client_context(server)) as edge:
        with edge.connect() as sock:
            sock.sendall(request(b"POST", b"/", body=b"hello"))
            assert answer(sock) == (200, b"hello")
        assert edge.url.startswith("https://127.0.0.1:")
        assert edge.app.scope["scheme"] == "https"
        assert edge.app.scope["extensions"] == {PEER_CERTIFICATE: None}


def test_the_application_sees_the_client_certificate_of_the_connection(server: Identity, agent: Identity) -> None:
    files = TlsFiles(certificate=server.certificate, key=server.key, client_ca=agent.certificate)
    with running_edge(tls=files, client_tls=client_context(server, agent)) as edge, edge.connect() as sock:
        for path in (b"/one", b"/two"):
            sock.sendall(request(b"GET", path))
            assert answer(sock).status == 200
            assert edge.app.scope["extensions"] == {PEER_CERTIFICATE: agent.der}


def _answered_over(edge: RunningEdge) -> bytes:
    """What comes back; in TLS 1.3 a client learns only from its first read that its handshake was refused."""
    try:
        return edge.exchange(request(b"GET", b"/", CLOSE))
    except ssl.SSLError:
        return b""


def test_a_client_certificate_of_another_authority_is_refused(server: Identity, agent: Identity) -> None:
    files = TlsFiles(certificate=server.certificate, key=server.key, client_ca=agent.certificate)
    with running_edge(tls=files, client_tls=client_context(server, server)) as edge:
        assert _answered_over(edge) == b""
        assert edge.app.started == []


def test_a_client_without_certificate_is_refused_where_one_is_required(server: Identity, agent: Identity) -> None:
    files = TlsFiles(
        certificate=server.certificate, key=server.key, client_ca=agent.certificate, client_certificate_required=True
    )
    with running_edge(tls=files, client_tls=client_context(server)) as edge:
        assert _answered_over(edge) == b""
        assert edge.app.started == []


def _handshake(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE), server_hostname="localhost"
    )


def test_tls_1_2_needs_forward_secrecy_and_is_off_with_client_certificates(server: Identity, agent: Identity) -> None:
    old = client_context(server)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    files = TlsFiles(certificate=server.certificate, key=server.key)
    with running_edge(tls=files, client_tls=old) as edge:
        port = int(edge.url.rpartition(":")[2])
        with _handshake(old, port) as sock:
            assert sock.version() == "TLSv1.2"
            cipher = sock.cipher()
            assert cipher is not None
            assert cipher[0].startswith("ECDHE-")
            assert sock.compression() is None
        cbc = client_context(server)
        cbc.maximum_version = ssl.TLSVersion.TLSv1_2
        cbc.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")
        with pytest.raises(ssl.SSLError):
            _handshake(cbc, port)
    with (
        running_edge(
            tls=TlsFiles(certificate=server.certificate, key=server.key, client_ca=agent.certificate), client_tls=old
        ) as edge,
        pytest.raises(ssl.SSLError),
    ):
        edge.connect()


def test_sessions_are_not_resumed_and_alpn_is_http_1_1(server: Identity) -> None:
    client = client_context(server)
    client.set_alpn_protocols(["h2", "http/1.1"])
    files = TlsFiles(certificate=server.certificate, key=server.key)
    with running_edge(tls=files, client_tls=client) as edge, edge.connect() as sock:
        sock.sendall(request(b"GET", b"/"))
        answer(sock)
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.3"
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert sock.session is None or not sock.session.has_ticket


def test_a_silent_handshake_is_cut_off(server: Identity) -> None:
    files = TlsFiles(certificate=server.certificate, key=server.key)
    with running_edge(EdgeLimits(handshake_seconds=0.2), tls=files, client_tls=client_context(server)) as edge:
        port = int(edge.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            assert read_to_end(sock) == b""


def test_a_refusal_is_readable_over_tls(server: Identity) -> None:
    files = TlsFiles(certificate=server.certificate, key=server.key)
    limits = EdgeLimits(linger_seconds=0.1, sweep_seconds=0.05)
    with running_edge(limits, tls=files, client_tls=client_context(server)) as edge, edge.connect() as sock:
        sock.sendall(request(b"GET", b"/", host=b"evil.example"))
        assert answer(sock).status == 403
        assert edge.app.started == []


def test_another_certificate_holds_for_new_connections_and_open_ones_go_on(server: Identity, agent: Identity) -> None:
    first, second = (TlsFiles(certificate=identity.certificate, key=identity.key) for identity in (server, agent))
    with running_edge(tls=first, client_tls=client_context(server)) as edge, edge.connect() as old:
        port = int(edge.url.rpartition(":")[2])
        assert edge.server_tls is not None
        for files, identity, stranger in ((second, agent, server), (first, server, agent)):
            edge.server_tls.adopt(server_context(files))
            with _handshake(client_context(identity), port) as sock:
                assert sock.getpeercert(True) == identity.der
                sock.sendall(request(b"GET", b"/"))
                assert answer(sock).status == 200
            with pytest.raises(ssl.SSLCertVerificationError):
                _handshake(client_context(stranger), port)
            old.sendall(request(b"GET", b"/"))
            assert answer(old).status == 200


def test_other_authorities_of_client_certificates_hold_for_new_connections(server: Identity, agent: Identity) -> None:
    plain = TlsFiles(certificate=server.certificate, key=server.key)
    strict = TlsFiles(
        certificate=server.certificate, key=server.key, client_ca=agent.certificate, client_certificate_required=True
    )
    with running_edge(tls=plain, client_tls=client_context(server)) as edge:
        assert edge.exchange(request(b"GET", b"/", CLOSE)).startswith(b"HTTP/1.1 200")
        assert edge.server_tls is not None
        edge.server_tls.adopt(server_context(strict))
        assert _answered_over(edge) == b""
        port = int(edge.url.rpartition(":")[2])
        with _handshake(client_context(server, agent), port) as sock:
            sock.sendall(request(b"GET", b"/"))
            assert answer(sock).status == 200
            assert edge.app.scope["extensions"] == {PEER_CERTIFICATE: agent.der}
        edge.server_tls.adopt(server_context(plain))
        assert edge.exchange(request(b"GET", b"/", CLOSE)).startswith(b"HTTP/1.1 200")


def test_connections_end_when_other_client_certificates_are_good(server: Identity, agent: Identity) -> None:
    plain = TlsFiles(certificate=server.certificate, key=server.key)
    first = TlsFiles(certificate=server.certificate, key=server.key, client_ca=agent.certificate)
    second = TlsFiles(certificate=server.certificate, key=server.key, client_ca=server.certificate)
    limits = EdgeLimits(sweep_seconds=0.05)
    with running_edge(limits, tls=plain, client_tls=client_context(server, agent)) as edge:
        assert edge.server_tls is not None
        for files, mid_head in ((first, False), (second, True)):
            with edge.connect() as idle, edge.connect() as busy:
                for sock in (idle, busy):
                    sock.sendall(request(b"GET", b"/"))
                    assert answer(sock).status == 200
                # The edge has read this beginning once another connection that came later was answered.
                whole = request(b"POST", b"/", body=b"hello")
                busy.sendall(whole[:40] if mid_head else whole[:-1])
                edge.exchange(request(b"GET", b"/", CLOSE))
                edge.server_tls.adopt(server_context(files))
                assert read_to_end(idle) == b""
                # What was under way is answered, and no more.
                busy.sendall((whole[40:] if mid_head else whole[-1:]) + request(b"GET", b"/more"))
                last = read_to_end(busy)
                assert (last.count(b"HTTP/1.1 200"), b"onnection: close" in last) == (1, True)
        # The certificate of before is not good any more.
        assert _answered_over(edge) == b""


def test_a_handshake_that_began_before_other_certificates_were_good_serves_nothing(
    server: Identity, agent: Identity
) -> None:
    first = TlsFiles(certificate=server.certificate, key=server.key, client_ca=agent.certificate)
    second = TlsFiles(certificate=server.certificate, key=server.key, client_ca=server.certificate)
    with running_edge(tls=first, client_tls=client_context(server, agent)) as edge:
        assert edge.server_tls is not None
        port = int(edge.url.rpartition(":")[2])
        came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context(server, agent).wrap_bio(came, goes, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(goes.read())
                    came.write(sock.recv(65536))
            # The gateway has judged nothing yet: our certificate is still in `goes`.
            edge.server_tls.adopt(server_context(second))
            tls.write(request(b"GET", b"/"))
            sock.sendall(goes.read())
            with suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
        assert edge.app.started == []


def test_unusable_tls_files_are_named(server: Identity, agent: Identity, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    for files, text in (
        (TlsFiles(certificate=missing, key=server.key), "missing.pem is not a file"),
        (TlsFiles(certificate=server.certificate, key=agent.key), "agent.key are not"),
        (TlsFiles(certificate=server.key, key=server.key), "not a PEM certificate chain"),
        (TlsFiles(certificate=server.certificate, key=server.locked_key), "without passphrase"),
        (TlsFiles(certificate=server.certificate, key=server.key, client_ca=server.key), "tls.client_ca"),
        (TlsFiles(certificate=server.certificate, key=server.key, client_certificate_required=True), "tls.client_ca"),
    ):
        with pytest.raises(TlsError, match=text):
            server_context(files)


# --- where it listens


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://MCP.example.com/x", {"mcp.example.com", "mcp.example.com:443"}),
        ("https://mcp.example.com:443", {"mcp.example.com", "mcp.example.com:443"}),
        ("http://localhost:8080", {"localhost:8080"}),
        ("http://[::1]", {"[::1]", "[::1]:80"}),
    ],
)
def test_the_hosts_of_a_public_url(url: str, hosts: set[str]) -> None:
    assert hosts_of(url) == hosts


@pytest.mark.parametrize("url", ["mcp.example.com", "ftp://a", "https://", "https://a:x"])
def test_a_public_url_without_host_is_refused(url: str) -> None:
    with pytest.raises(ListenError, match="public_url"):
        hosts_of(url)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_plain_http_beyond_this_machine_is_a_start_up_error(listen: str) -> None:
    with pytest.raises(ListenError, match=r"set tls\.certificate and tls\.key"), running_edge(listen=listen):
        pass


def test_an_address_in_use_is_a_start_up_error() -> None:
    with running_edge() as edge:
        taken = edge.url.removeprefix("http://")
        with pytest.raises(ListenError, match=taken), running_edge(listen=taken):
            pass


def test_localhost_is_served() -> None:
    with running_edge(listen="localhost:0") as edge, edge.connect() as sock:
        sock.sendall(request(b"GET", b"/"))
        assert answer(sock).status == 200


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    if len(str(path)) > 100:
        pytest.skip("the temporary directory's name is too long for a Unix socket")
    yield path
    assert not path.exists()


def test_a_unix_socket_is_for_its_owner_only_and_removed_at_the_end(socket_path: Path) -> None:
    with running_edge(EdgeLimits(max_connections_per_address=1), listen=f"unix:{socket_path}") as edge:
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
        with edge.connect() as one, edge.connect() as two:
            for sock in (one, two):
                sock.sendall(request(b"GET", b"/"))
                assert answer(sock).status == 200
        edge.exchange(request(b"GET", b"/", host=b"evil.example"))
        assert [address for address, _ in edge.refusals] == ["unix"]


def test_the_socket_of_a_killed_process_is_replaced_that_of_a_living_one_is_not(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(socket_path))
    with running_edge(listen=f"unix:{socket_path}") as edge:
        with pytest.raises(ListenError, match="another process"), running_edge(listen=f"unix:{socket_path}"):
            pass
        edge.marker()


def test_a_file_is_never_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(ListenError, match="not a socket"), running_edge(listen=f"unix:{path}"):
        pass
    assert path.read_text() == "precious"


# --- ending

_SCRIPT = """
import sys, uvloop
from edgelab import HOST, RecordingApp
from twogate.adapters.clock import SystemClock
from twogate.config.values import TcpAddress
from twogate.web.edge_limits import EdgeLimits
from twogate.web.listen import serve

def ready(url):
    print(url, flush=True)

limits = EdgeLimits(drain_seconds=2, sweep_seconds=0.1)
uvloop.run(serve(RecordingApp(), listen=TcpAddress("127.0.0.1", 0), tls=None, limits=limits,
    allowed_hosts=frozenset({HOST.decode()}), on_refusal=lambda *_: None, clock=SystemClock(), ready=ready))
print("drained", flush=True)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    lab = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], cwd=lab, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_end_and_the_exit_status_is_zero(
    process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as idle,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as busy,
    ):
        idle.sendall(request(b"GET", b"/"))
        answer(idle)
        busy.sendall(b"POST / HTTP/1.1\r\nHost: " + HOST + b"\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert busy.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        process.send_signal(number)
        assert read_to_end(idle) == b""
        busy.sendall(b"hello")
        received = read_to_end(busy)
    assert b"\r\nconnection: close\r\n" in received
    assert received.endswith(b"\r\n\r\nhello")
    assert process.wait(PATIENCE) == 0
    assert process.stdout.read() == "drained\n"


def test_a_request_that_does_not_end_is_cut_off_after_the_drain_time(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: " + HOST + b"\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        sock.recv(100)
        process.send_signal(signal.SIGTERM)
        read_to_end(sock)
    assert process.wait(PATIENCE) == 0


def test_the_port_is_free_again_after_the_end() -> None:
    with running_edge() as edge:
        pass
    with running_edge(listen=edge.url.removeprefix("http://")) as again:
        again.marker()


def test_an_application_that_does_not_start_ends_the_server() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise OSError("no database")

    async def run() -> None:
        await serve(
            broken,
            listen=TcpAddress("127.0.0.1", 0),
            tls=None,
            limits=EdgeLimits(),
            allowed_hosts=frozenset({"a"}),
            on_refusal=lambda *_: None,
            clock=SystemClock(),
        )

    with pytest.raises(RuntimeError, match="did not start"):
        asyncio.run(run())


def test_connections_are_counted_out_when_they_end() -> None:
    with running_edge(EdgeLimits(max_connections=1)) as edge:
        for _ in range(20):
            until(lambda: edge.exchange(request(b"GET", b"/", CLOSE)).startswith(b"HTTP/1.1 200 "))
