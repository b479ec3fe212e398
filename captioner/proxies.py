"""Proxies and certificates that the environment names, for every HTTP client of the project.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in upper or lower case, mean what they mean to
curl, SSL_CERT_FILE and SSL_CERT_DIR what they mean to OpenSSL. A variable that cannot be followed
is named in the error. This machine itself is always reached without a proxy. Needs httpx.
"""

import importlib.util
import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import httpx

from captioner.errors import OptionError
from captioner.text import in_one_line

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it."""

    variable: str
    url: str

    def __str__(self) -> str:
        return f"the proxy {without_password(self.url)} that {self.variable} names"


class RoutedTransport(httpx.BaseTransport):
    """Sends each request by the way that the environment names for its address."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, str, int | None], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        key = (url.scheme, url.host, url.port)
        if key not in self._transports:
            self._transports[key] = httpx.HTTPTransport(**transport_options(str(url)))
        return self._transports[key].handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


def transport_options(url: str) -> dict[str, Any]:
    """Return the keywords of a transport of httpx, sync or async, for requests to `url`.

    Raises:
        OptionError: an environment variable that counts for this address cannot be followed.
    """
    proxy = proxy_for(url)
    # Certificates are of no use to plain http: a broken variable must not keep it from working.
    is_secure = url.startswith("https:")
    return {
        "proxy": None if proxy is None else proxy.url,
        "verify": _trusted() if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    }


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for requests to `url`, or None where they go straight to it.

    Raises:
        OptionError: the variable names something that is no proxy, or one that cannot be used.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if _is_this_machine(host) or _is_exempt(host, parts.port):
        return None
    variable, proxy = _first(f"{parts.scheme}_proxy", "all_proxy")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    shown = f"{variable} is {without_password(proxy)}"
    try:
        scheme = httpx.Proxy(proxy).url.scheme
        is_usable = bool(urlsplit(proxy).hostname)
    except (httpx.InvalidURL, ValueError):
        is_usable = False
    if not is_usable:
        raise OptionError(f"{shown}; give a proxy like http://host:port, or unset the variable")
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise OptionError(
            f"{shown}; SOCKS needs a package: pip install 'httpx[socks]', or unset the variable"
        )
    return Proxy(variable, proxy)


def failure(problem: Exception, url: str) -> str:
    """Return what went wrong with a request to `url`, and the variables that had a part in it."""
    text = in_one_line(problem)
    if proxy := proxy_for(url):
        text += f", through {proxy}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        given = [f"{name} is {os.environ[name]}" for name in _CERTIFICATES if os.environ.get(name)]
        text += "".join(f", {one}" for one in given)
    return text


def without_password(url: str) -> str:
    """Return an address without the name and password that may stand in it."""
    return re.sub(r"^([^/]*//)?.*@", r"\1", url)


def _trusted() -> ssl.SSLContext:
    for name, exists in zip(_CERTIFICATES, (os.path.isfile, os.path.isdir), strict=True):
        if (path := os.environ.get(name)) and not exists(path):
            raise OptionError(f"{name} is {path}, which is not there; correct or unset it")
    try:
        return httpx.create_ssl_context()
    except OSError as problem:  # ssl.SSLError is one
        name, path = _CERTIFICATES[0], os.environ.get(_CERTIFICATES[0])
        raise OptionError(
            f"{name} is {path}, which cannot be read as certificates "
            f"({in_one_line(problem)}); correct or unset it"
        ) from problem


def _first(*names: str) -> tuple[str, str]:
    """Return the first of these variables that is set, lower case before upper, and its value."""
    for name in names:
        for variable in (name, name.upper()):
            if value := os.environ.get(variable, "").strip():
                return variable, value
    return "", ""


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ip_address(host)
        return address.is_loopback or address.is_unspecified
    return False


def _is_exempt(host: str, port: int | None) -> bool:
    """Whether NO_PROXY holds the host: its name, the end of its name, or its network."""
    _, listed = _first("no_proxy")
    for entry in listed.lower().replace(",", " ").split():
        if entry == "*":
            return True
        with suppress(ValueError):
            if ip_address(host) in ip_network(entry.strip("[]"), strict=False):
                return True
        name, _, of_port = entry.removeprefix("*").lstrip(".").partition(":")
        if of_port in ("", str(port)) and name and (host == name or host.endswith(f".{name}")):
            return True
    return False
