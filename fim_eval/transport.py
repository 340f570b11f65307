"""The wire: how an endpoint is reached, and how its refusals and failures read in words."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from fim_eval.errors import EndpointError
from fim_eval.records import Timeouts

LONGEST_DETAIL = 500
"""Characters of a server's message that are kept."""

CONNECTIONS_TO_LOOK = 3
"""More than there are requests: for a sign of life, `/metrics` and what a server lists of itself,
when all others wait."""


def base_urls(endpoint: str) -> list[str]:
    """The base URLs of an endpoint, which are separated by commas.

    Raises:
        EndpointError: as `check_base_url`; or one is named twice, however it is written.
    """
    urls = [check_base_url(url.strip()) for url in endpoint.split(",")]
    known: dict[httpx.URL, str] = {}
    for url in urls:
        parsed = httpx.URL(url)
        if parsed in known:
            first = known[parsed]
            # Both would own the same problems, and answer each of them a second time.
            same = "named twice" if first == url else f"the same as {first}"
            raise EndpointError(
                f"--endpoint {url}: is {same}; name every server once, and raise "
                "--max-concurrency if one is to be asked more"
            )
        known[parsed] = url
    return urls


def check_base_url(base_url: str) -> str:
    """The URL without a slash at its end, if it can be a base URL and carries no secret.

    Raises:
        EndpointError: it is none or several, or holds a password or a query, which would end up
            in files.
    """
    try:
        parts = urlsplit(base_url)
        httpx.URL(base_url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and "," not in base_url
    except (ValueError, httpx.InvalidURL):
        is_url = False
    if not is_url:
        raise EndpointError(
            f"--endpoint {base_url}: is no base URL; it looks like "
            "http://127.0.0.1:8007/v1 or https://cluster.example/some/prefix/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EndpointError(
            f"--endpoint {parts.scheme}://{parts.hostname}…: holds a user name, password or query; "
            "put the key into an environment variable and name it with --api-key-env"
        )
    return base_url.rstrip("/")


def key_in(environment: Mapping[str, str], variable: str) -> str | None:
    """The key in an environment variable; None if it is unset or empty.

    Raises:
        EndpointError: it holds what no HTTP header can carry; the message does not show it.
    """
    key = environment.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"the key in {variable} holds a space, a line break or a letter outside ASCII, which "
            "no HTTP header can carry; set it again"
        )
    return key or None


def proxy_of(base_url: str) -> httpx.Proxy | None:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say of an endpoint; None: no proxy.

    Names and addresses of whatever machine asks are always asked directly: to a proxy they are its
    own.

    Raises:
        EndpointError: the proxy is none that can be used; its password is not told.
    """
    parts = urlsplit(base_url)
    proxies = getproxies()
    variable = parts.scheme if parts.scheme in proxies else "all"
    host = parts.hostname or ""
    if variable not in proxies or _is_here(host) or proxy_bypass(parts.netloc):
        return None
    named = proxies[variable]
    try:
        proxy = httpx.Proxy(named if "://" in named else f"http://{named}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        raise EndpointError(
            f"{base_url}: is to be asked through the proxy in {variable.upper()}_PROXY, which is "
            "none that speaks HTTP, as in http://proxy.example:3128; set it again, or name this "
            f"host in NO_PROXY ({host})"
        )
    if proxy.auth is None:
        return proxy
    # As a header, which aiohttp sends as `Proxy-Authorization`: its own way knows Latin-1 only.
    password = b64encode(":".join(proxy.auth).encode()).decode()
    return httpx.Proxy(proxy.url, headers={"Authorization": f"Basic {password}"})


def _is_here(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    # `0.0.0.0` is what vLLM says that it listens at.
    return address.is_loopback or address.is_unspecified


class Http(httpx.AsyncClient):
    """httpx's client for one endpoint, and a short way for what is sent very often."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: str,
        headers: dict[str, str],
        timeout: httpx.Timeout,
    ) -> None:
        """Nothing is connected yet."""
        super().__init__(transport=transport, base_url=base_url, headers=headers, timeout=timeout)
        self._wire = transport
        self._completions = httpx.URL(base_url).join("completions")
        plain = self.build_request("POST", self._completions).headers
        plain.pop("Content-Length", None)
        self._headers_sent = [*plain.raw, (b"Content-Type", b"application/json")]
        self._extensions = {"timeout": timeout.as_dict()}

    async def post_completions(self, content: bytes) -> httpx.Response:
        """Send JSON to `completions`: what `post` does, without what we never use of it.

        Redirects, cookies, authentication and merging of URLs cost httpx as much processor time
        as all the rest.

        Raises:
            httpx.TransportError: as `post`.
        """
        request = httpx.Request(
            "POST",
            self._completions,
            headers=self._headers_sent,
            content=content,
            extensions=self._extensions,
        )
        request.headers.encoding = "ascii"  # as `key_in` makes sure: else it is found out each time
        response = await self._wire.handle_async_request(request)
        response.request = request
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response


def open_http(base_url: str, api_key: str | None, *, concurrency: int, timeouts: Timeouts) -> Http:
    """An HTTP client for one endpoint, with aiohttp underneath: a tenth of httpx's own CPU cost.

    Args:
        base_url: the full base, as in `https://cluster.example/prefix/v1`.
        api_key: sent as a bearer token; None: no authorization header.
        concurrency: requests at most; `CONNECTIONS_TO_LOOK` more are kept.
        timeouts: per request and connection, in seconds.

    Certificates are checked against the system's, or the file that SSL_CERT_FILE names.

    Raises:
        EndpointError: as `proxy_of`.
    """
    # Servers close idle connections after 5 s: keeping them shorter avoids the race.
    most = concurrency + CONNECTIONS_TO_LOOK
    limits = httpx.Limits(
        max_connections=most, max_keepalive_connections=most, keepalive_expiry=3.0
    )
    return Http(
        _Transport(verify=ssl.create_default_context(), limits=limits, proxy=proxy_of(base_url)),
        base_url.rstrip("/") + "/",
        {"Authorization": f"Bearer {api_key}"} if api_key else {},
        httpx.Timeout(timeouts.request_s, connect=timeouts.connect_s, pool=None),
    )


class _Transport(AiohttpTransport):
    """aiohttp under httpx's API, with the one error mapped that the original lets through."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; an answer that is no HTTP is a protocol error, not a crash."""
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientResponseError as error:
            message = " ".join(error.message.split())
            raise httpx.RemoteProtocolError(message, request=request) from error


def error_message(response: httpx.Response, content: bytes | None = None) -> str:
    """The message inside an error body of any known shape, else the body's beginning.

    `content` is the event of a stream that holds the error; None: the whole body does.

    A server that repeats the API key in its message is not repeated by us.
    """
    try:
        body = orjson.loads(response.content if content is None else content)
    except orjson.JSONDecodeError:
        message = response.text.strip() or response.reason_phrase
    else:
        found = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
        message = str(found.get("message", found) if isinstance(found, dict) else found)
    key = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    return (message.replace(key, "[API key]") if key else message)[:LONGEST_DETAIL]


def is_timeout(error: httpx.RequestError) -> bool:
    """Whether time ran out, rather than the connection failing.

    The aiohttp transport tells a connection closed by the server as a ConnectTimeout: its cause
    is the better witness.
    """
    cause = error.__cause__
    return (
        isinstance(error, httpx.TimeoutException)
        if cause is None
        else isinstance(cause, TimeoutError)
    )


def describe(error: BaseException) -> str:
    """An exception and its cause, in words: the transport's own name is often the wrong one."""
    cause = error.__cause__
    if cause is None:
        return repr(error)
    if isinstance(cause, aiohttp.ClientResponseError):
        # Its `repr` holds the headers that were sent: the key, and a proxy's password.
        return f"{error!r} from {type(cause).__name__}"
    return f"{error!r} from {cause!r}"
