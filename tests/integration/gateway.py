"""A real nginx before a server, as a cluster's gateway is."""

from __future__ import annotations

import shutil
import socket
import subprocess
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
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_timeout 1s;
  limit_req_zone $binary_remote_addr zone=all:1m rate=20r/s;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port};
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


@contextmanager
def nginx_before(upstream: str, folder: Path) -> Iterator[str]:
    """The base URL that users are told; `/limited/` for `/models/` in it lets 20 a second through.

    Args:
        upstream: base URL of the server.
        folder: made, for nginx's files; `access.log` stands there.
    """
    assert NGINX is not None
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(folder=folder, port=port, key=KEY, upstream=upstream)
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
        yield f"http://127.0.0.1:{port}/team/models/v1"
    finally:
        process.terminate()
        process.wait(10)
