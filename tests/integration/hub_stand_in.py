"""A stand-in for the Hugging Face hub's HTTP API, for tests without a network.

Serves folders of files as repositories at one revision each, as far as huggingface_hub 2.4 and
datasets 5.2 ask: `/api/…/revision/…`, `/api/…/tree/…` and `/…/resolve/…`. All else is 404, as the
hub answers for what it does not have.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

_ADDRESS = re.compile(
    r"/(api/)?(?P<repository>(datasets/)?[^/]+/[^/]+)/(?P<what>revision|tree|resolve)"
    r"/(?P<revision>[^/]+)/?(?P<path>.*)"
)


class Hub:
    """A context manager: listens on a free port of loopback inside of it."""

    def __init__(self, repositories: Mapping[str, tuple[Path, str]]) -> None:
        """Serve nothing yet.

        Args:
            repositories: by path, `datasets/owner/name` or `owner/name`: a folder, its revision.
        """
        self.repositories = repositories
        self.requests: list[str] = []
        """Method and path of everything asked for, in order of arrival."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name
                """Tests are quiet."""

            def _answer(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                status, headers, content = hub.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Handler

    def answer(self, target: str) -> Answer:
        """What the hub says to a path with its query."""
        split = urlsplit(target)
        found = _ADDRESS.fullmatch(unquote(split.path))
        if found is None or found["repository"] not in self.repositories:
            return _missing("RepoNotFound")
        folder, revision = self.repositories[found["repository"]]
        if found["revision"] != revision:
            return _missing("RevisionNotFound")
        path = folder / found["path"]
        match found["what"]:
            case "revision":
                name = found["repository"].removeprefix("datasets/")
                return _json({"id": name, "sha": revision, "siblings": []})
            case "tree" if path.is_dir():
                deep = parse_qs(split.query).get("recursive", ["false"])[0].lower() == "true"
                below = path.rglob("*") if deep else path.iterdir()
                return _json([_entry(folder, each) for each in sorted(below)])
            case "resolve" if path.is_file():
                content = path.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": revision}, content
            case _:
                return _missing("EntryNotFound")


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    if path.is_dir():
        kind, content = "directory", b""
    else:
        kind, content = "file", path.read_bytes()
    return {
        "type": kind,
        "path": path.relative_to(folder).as_posix(),
        "size": len(content),
        "oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
    }


def _json(body: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def _missing(code: str) -> Answer:
    return 404, {"X-Error-Code": code, "X-Error-Message": code}, b""
