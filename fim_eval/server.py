"""Which servers there are, and what one says of itself. Asks; never starts or stops anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import orjson
import yaml

from fim_eval.errors import EndpointError, UnansweredError
from fim_eval.records import Record
from fim_eval.transport import describe, error_message, is_timeout

VERSION_TRIES = 3
VERSION_PAUSE_S = 1.0
VERSION_LIMIT_S = 5.0
"""For one try: all of them have to fit into `Timeouts.look_s`."""


class KnownServer(Record):
    """A server that one of the configuration files in `servers/` would start."""

    config: str
    base_url: str
    model: str
    """The name it answers to."""


class Listing(Record):
    """What `/v1/models` and `/version` tell. None where they do not."""

    roots: dict[str, str | None]
    """Path or repository behind each name served."""

    max_model_lens: dict[str, int | None]
    version: str | None
    unread: str | None
    """Why the version could not be read, though it may be told another time; None: it was, or is
    hidden."""


def known_servers(folder: Path) -> list[KnownServer]:
    """The servers that the vLLM configuration files in `folder` describe, by file name.

    Raises:
        EndpointError: there is no such folder, or a file in it names no port or model.
    """
    servers = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
            names = config["served-model-name"]
            port = int(config["port"])
            model = names if isinstance(names, str) else names[0]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EndpointError(f"{path}: names no port or no served-model-name") from error
        except (OSError, yaml.YAMLError) as error:
            raise EndpointError(f"{path}: is no readable YAML file ({error})") from error
        servers.append(
            KnownServer(config=path.stem, base_url=f"http://127.0.0.1:{port}/v1", model=model)
        )
    if not servers:
        raise EndpointError(f"{folder}: holds no server configuration (*.yaml)")
    return servers


async def list_models(http: httpx.AsyncClient, *, has_version: bool = False) -> Listing:
    """What the endpoint serves.

    Args:
        http: opened for it.
        has_version: whether it told its version before. If so, an answer without one may be a
            gateway's, and is not taken at its word at once.

    Raises:
        UnansweredError: nothing answers there, or what does has nobody behind it (5xx).
        EndpointError: what answers refuses us, or is no OpenAI-compatible server.
    """
    url = str(http.base_url)
    try:
        response = await http.get("models", timeout=10.0)
    except httpx.RequestError as error:
        if "CERTIFICATE_VERIFY_FAILED" in (told := str(error)):
            raise EndpointError(
                f"{url}: shows a certificate that is not trusted here ({told}); let SSL_CERT_FILE "
                "name a file with the certificate of the authority that signed it"
            ) from error
        how = "does not answer in time" if is_timeout(error) else "nothing answers"
        raise UnansweredError(
            f"{url}: {how} ({error}); is the server running, and is this the full base URL, "
            "with /v1 at its end?"
        ) from error
    if response.status_code in (401, 403):
        raise EndpointError(
            f"{url}: refuses the API key (HTTP {response.status_code}); put it into an "
            "environment variable and name that with --api-key-env"
        )
    try:
        rows = orjson.loads(response.content)["data"]
        roots = {row["id"]: row.get("root") for row in rows}
        max_model_lens = {row["id"]: row.get("max_model_len") for row in rows}
        version, unread = await _version(http, has_version=has_version)
        return Listing(roots=roots, max_model_lens=max_model_lens, version=version, unread=unread)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        refused = UnansweredError if response.status_code >= 500 else EndpointError
        raise refused(
            f"{url}models: HTTP {response.status_code}, no list of models "
            f"({error_message(response)[:200]}); is this the full base URL, with /v1 at its end?"
        ) from error


async def _version(http: httpx.AsyncClient, *, has_version: bool) -> tuple[str | None, str | None]:
    """The version and `Listing.unread`, asked a few times if the first may have failed."""
    version, unread = await _version_once(http)
    for _ in range(VERSION_TRIES - 1):
        if version is not None or (unread is None and not has_version):
            break
        await asyncio.sleep(VERSION_PAUSE_S)
        version, unread = await _version_once(http)
    return version, unread


async def _version_once(http: httpx.AsyncClient) -> tuple[str | None, str | None]:
    """From `/version`, beside `/v1`."""
    base = str(http.base_url).rstrip("/").removesuffix("/v1")
    try:
        response = await http.get(f"{base}/version", timeout=VERSION_LIMIT_S)
    except httpx.RequestError as error:
        return None, describe(error)
    status = response.status_code
    if status in (408, 429) or status >= 500:
        return None, f"HTTP {status}"
    try:
        version = orjson.loads(response.content)["version"] if status == 200 else None
    except (ValueError, KeyError, TypeError):
        version = None
    return (version if isinstance(version, str) else None), None
