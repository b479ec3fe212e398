"""What RFC 9112 asks of a request's header and the parser does not check: Host and codings."""

import re

from serving.connection.early_answers import RawHeaders

# The grammar of RFC 3986: a name or an address, and perhaps a port.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*(?::[0-9]*)?[ \t]*"
    rb"|\[[0-9A-Za-z:.]+\](?::[0-9]*)?[ \t]*"
)
_OLD = ("0.9", "1.0")


def what_is_wrong(headers: RawHeaders, version: str) -> str | None:
    """Return what is wrong with the header of a request of an HTTP `version`, or None."""
    return _wrong_host(headers, version) or _wrong_transfer_coding(headers, version)


def _wrong_host(headers: RawHeaders, version: str) -> str | None:
    """Return what is wrong with the Host field (RFC 9112, section 3.2), or None."""
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts and version in _OLD:
        return None
    if len(hosts) != 1:
        return f"the header has {len(hosts)} Host fields; send one"
    return None if _HOST.fullmatch(hosts[0]) else "the Host field is not a host and a port"


def _wrong_transfer_coding(headers: RawHeaders, version: str) -> str | None:
    """Return what is wrong with Transfer-Encoding (RFC 9112, section 6.1), or None.

    The parser undoes `chunked` alone, and would pass on a compressed body as it is.
    """
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if not codings:
        return None
    if version in _OLD:
        return "Transfer-Encoding needs HTTP/1.1; send a Content-Length"
    named = b", ".join(codings)
    if named.strip().lower() == b"chunked":
        return None
    return f"Transfer-Encoding is {named.decode('latin-1')!r}; send chunked alone"
