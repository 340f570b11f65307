"""A real nginx before a server, as a cluster's gateway is, and a proxy for HTTPS."""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
KEY = "a-key-that-must-not-be-seen"

CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 128; }}
http {{
  log_format told '$connection "$request" $status';
  access_log {folder}/access.log told;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_timeout 1s;
  limit_req_zone $binary_remote_addr zone=all:1m rate=20r/s;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port}{tls};
    location /team/models/v1/ {{
      if ($http_authorization != "Bearer {key}") {{ return 401; }}
      proxy_pass {upstream}/;
    }}
    location /team/limited/v1/ {{
      if ($http_authorization != "Bearer {key}") {{ return 401; }}
      limit_req zone=all burst=5 nodelay;
      proxy_pass {upstream}/;
    }}
    location / {{ return 404; }}
  }}
}}
"""


TLS = " ssl; ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key"


@contextmanager
def nginx_before(upstream: str, folder: Path, *, tls: bool = False) -> Iterator[str]:
    """The base URL that users are told; `/limited/` for `/models/` in it lets 20 a second through.

    Args:
        upstream: base URL of the server.
        folder: made, for nginx's files; `access.log` stands there.
        tls: whether it speaks HTTPS, with a certificate of an authority of its own (`ca.pem`).
    """
    assert NGINX is not None
    folder.mkdir()
    if tls:
        make_certificates(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            port=port,
            key=KEY,
            upstream=upstream,
            tls=TLS.format(folder=folder) if tls else "",
        )
    )
    process = subprocess.Popen(
        [NGINX, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/team/models/v1"
    finally:
        process.terminate()
        process.wait(10)


def make_certificates(folder: Path) -> None:
    """An authority that nobody knows, and a certificate that it has signed.

    It is for 127.0.0.1, and for `models.invalid`, which only a proxy can reach.
    """

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:models.invalid\n")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Team CA")
    openssl("req", "-new", *key, "-keyout", "server.key", "-out", "request", "-subj", "/CN=gateway")
    openssl(
        "x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "server.pem", "-days", "2", "-extfile", "names",
    )  # fmt: skip


class _Tunnel(socketserver.StreamRequestHandler):
    """One connection: what is wanted is noted, and leads to the one place there is."""

    server: _Proxy

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        self.server.asked.append(head.decode())
        with socket.create_connection(self.server.target) as there:
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_copy, args=(there, self.connection))
            back.start()
            _copy(self.connection, there)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.target = target
        self.asked: list[str] = []
        """What was asked for, with its headers."""


@contextmanager
def proxy_to(port: int) -> Iterator[tuple[str, list[str]]]:
    """A proxy for HTTPS, whoever is asked for, that leads to a port of this machine.

    Returns:
        Its address, and the heads of the requests that it got.
    """
    with _Proxy(("127.0.0.1", port)) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        try:
            yield f"127.0.0.1:{proxy.server_address[1]}", proxy.asked
        finally:
            proxy.shutdown()
            serving.join()
