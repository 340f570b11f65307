"""Which URLs an endpoint has, and which proxy the environment names. No connection is made."""

from __future__ import annotations

import os

import pytest

from fim_eval.errors import EndpointError
from fim_eval.transport import base_urls, check_base_url, proxy_of

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def named(base_url: str) -> str | None:
    proxy = proxy_of(base_url)
    return None if proxy is None else str(proxy.url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "[::1]",
        "localhost",
        "LOCALHOST",
        "gpu.localhost",
        "0.0.0.0",  # noqa: S104  asked, not listened at
        "[::]",
    ],
)
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, PROXY)
    for scheme in ("http", "https"):
        assert named(f"{scheme}://{host}:8000/v1") is None


@pytest.mark.parametrize(
    ("variable", "value", "base_url", "proxy"),
    [
        ("HTTP_PROXY", PROXY, "http://models.example/v1", PROXY),
        ("http_proxy", PROXY, "http://models.example/v1", PROXY),
        ("HTTP_PROXY", "proxy.example:3128", "http://models.example/v1", PROXY),
        ("HTTP_PROXY", PROXY, "https://models.example/v1", None),
        ("HTTPS_PROXY", PROXY, "https://models.example/v1", PROXY),
        ("ALL_PROXY", PROXY, "https://models.example/v1", PROXY),
        ("HTTP_PROXY", PROXY, "http://10.0.0.7:8000/v1", PROXY),
    ],
)
def test_the_variable_of_the_scheme_counts(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, base_url: str, proxy: str | None
) -> None:
    monkeypatch.setenv(variable, value)
    assert named(base_url) == proxy


@pytest.mark.parametrize("but", ["models.example", ".example", "other,models.example:8000", "*"])
def test_a_host_that_no_proxy_names_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch, but: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert named("http://models.example:8000/v1") == PROXY
    monkeypatch.setenv("NO_PROXY", but)
    assert named("http://models.example:8000/v1") is None


@pytest.mark.parametrize(
    "value", ["socks5://me:secret@proxy:1080", "http://me:secret@", "http://me:secret@proxy:port"]
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(EndpointError, match="the proxy in HTTPS_PROXY") as told:
        proxy_of("https://models.example/v1")
    assert "secret" not in str(told.value)
    assert told.value.__cause__ is None


def test_the_urls_of_an_endpoint_are_separated_by_commas() -> None:
    assert base_urls("http://a/v1") == ["http://a/v1"]
    assert base_urls("http://a/v1/, http://b:8007/v1") == ["http://a/v1", "http://b:8007/v1"]


@pytest.mark.parametrize("several", ["http://a/v1,http://b/v1", "http://a/v1,"])
def test_several_urls_are_not_one(several: str) -> None:
    with pytest.raises(EndpointError, match="is no base URL"):
        check_base_url(several)


@pytest.mark.parametrize(
    ("twice", "told"),
    [
        ("http://x/v1,http://x/v1/", "http://x/v1: is named twice; name every server once"),
        ("http://a/v1,http://x/v1,http://x/v1", "http://x/v1: is named twice"),
        ("http://x/v1,http://X:80/v1", "http://X:80/v1: is the same as http://x/v1; name every"),
    ],
)
def test_a_server_is_named_once(twice: str, told: str) -> None:
    with pytest.raises(EndpointError, match=told):
        base_urls(twice)
