"""Parser of a connection's requests, which reads on where a client offers another protocol.

A client may offer HTTP/2 or WebSocket with any request, as Java's and curl's do. Who speaks neither
answers as if nothing had been offered (RFC 9110, section 7.8). httptools stops behind the header of
such a request instead: what follows is not HTTP/1.1 for it, also where it is the request's body.
"""

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class RequestParser:
    """httptools' parser, and behind an offer a second one, for the body of that request alone.

    The protocol is told of the end of such a request twice. The first time there is still
    `should_upgrade()`, and the body has not been read. What comes behind the body is dropped, so
    the connection must end with the answer.
    """

    def __init__(self, parser: httptools.HttpRequestParser, protocol: HttpToolsProtocol) -> None:
        self._parser = parser
        self._protocol = protocol
        self._body: _Body | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Read what has come; raise `HttpParserError` where it is malformed."""
        if self._body is None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
            else:
                return
            self._body = self._begin_body()
        if not self._body.is_complete:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                if not self._body.is_complete:  # else it is about what comes behind the body
                    raise

    def _begin_body(self) -> "_Body":
        """Go on with a parser that has read how the body ends, and nothing of an offer."""
        body = _Body(self._protocol)
        framing = [
            b"%s: %s\r\n" % (name, value)
            for name, value in self._protocol.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self._parser = httptools.HttpRequestParser(body)
        head = b"POST / HTTP/1.1\r\nConnection: close\r\n"
        self._parser.feed_data(head + b"".join(framing) + b"\r\n")
        return body


class _Body:
    """What the second parser tells: neither its own header nor trailers."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self.on_body = protocol.on_body
        self._complete = protocol.on_message_complete
        self.is_complete = False

    def on_message_complete(self) -> None:
        self.is_complete = True
        self._complete()
