"""Raw HTTP attacks: smuggling, floods of fields, path traversal.

Each must get an answer or a closed connection in time, no status 500, no traceback, and an error in
the form of RFC 9457 wherever HTTP allows one.
"""

import asyncio
import re
import time
from contextlib import closing, suppress
from dataclasses import dataclass

from captioner.progress import Progress
from stress import Report, StressOptions
from stress.client import Address, ask_for, photographs
from stress.disconnects import demand_no_descriptor_stays
from stress.target import Target

MOST_SECONDS = 30.0
HOST = b"Host: x\r\n"
CLOSE = b"Connection: close\r\n"
JSON = b"application/json"
TIMEOUTS = ("nan", "-1", "0", "1e309", "inf", "-inf", "1e-300", "0x10", "1_0", "", "٣", "9" * 400)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW")
CLIMBING = (
    "/../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/page.css/../app.py",
    "/..\\..\\etc\\passwd",
    "/page/../../settings.py",
    "/%00",
    "/page.js%00.css",
    "/.git/config",
    "//etc/passwd",
    "/page.css/",
    "/index.html/..",
    "/%c0%ae%c0%ae/etc/passwd",
    "/serving/settings.py",
)
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Effect:
    """What an attack got."""

    statuses: tuple[int, ...]
    received: bytes
    seconds: float


def attacks(photograph: bytes) -> dict[str, bytes]:
    """Return all by name; every route of the service is asked for with every method."""
    from serving.app import create_app  # which imports torch
    from serving.settings import Settings

    paths = {str(getattr(route, "path", "/")) for route in create_app(Settings()).routes}
    asked = [f"{method} {path}" for path in sorted({*paths, "/nothing"}) for method in METHODS]
    return {
        **_framing(photograph),
        **_headers(photograph),
        **_forms(photograph),
        **{name: f"{name} HTTP/1.1\r\n".encode() + HOST + CLOSE + b"\r\n" for name in asked},
        **{path: _get(b"", path.encode()) for path in CLIMBING},
    }


def _get(extra: bytes, target: bytes = b"/version", *, end: bytes = CLOSE) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + extra + end + b"\r\n"


def _post(extra: bytes, body: bytes = b"", *, path: bytes = b"/caption") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + extra + b"\r\n" + body


def _framing(photograph: bytes) -> dict[str, bytes]:
    length = b"Content-Length: %d\r\n" % len(photograph)
    chunked = b"Transfer-Encoding: chunked\r\n"
    smuggled = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    return {
        "length and chunked": _post(b"Content-Length: 6\r\n" + chunked, smuggled),
        "chunked and length": _post(chunked + b"Content-Length: 6\r\n", smuggled),
        "chunked twice": _post(chunked + chunked, b"0\r\n\r\n"),
        "chunked, then identity": _post(chunked + b"Transfer-Encoding: identity\r\n", smuggled),
        "chunked with a blank before": _post(b"Transfer-Encoding : chunked\r\n", smuggled),
        "chunked after a tab": _post(b"Transfer-Encoding:\tchunked\r\n" + CLOSE, b"0\r\n\r\n"),
        "xchunked": _post(b"Transfer-Encoding: xchunked\r\n", smuggled),
        "chunked, folded": _post(b"Transfer-Encoding:\r\n chunked\r\n", smuggled),
        "lengths that differ": _post(b"Content-Length: 0\r\n" + length, photograph),
        "lengths in a list": _post(b"Content-Length: 5, 6\r\n", b"abcdef"),
        "length in hexadecimal": _post(b"Content-Length: 0x10\r\n", b"x" * 16),
        "length that is enormous": _post(b"Content-Length: 99999999999999999999999\r\n"),
        "length of 2 to the 63": _post(b"Content-Length: 9223372036854775808\r\n"),
        "length that is negative": _post(b"Content-Length: -1\r\n", b"x"),
        "length of digits elsewhere": _post("Content-Length: ٣\r\n".encode(), b"abc"),
        "chunk of negative size": _post(chunked, b"-1\r\nx\r\n0\r\n\r\n"),
        "chunk of enormous size": _post(chunked, b"FFFFFFFFFFFFFFFFF\r\nx"),
        "chunk with 0x": _post(chunked, b"0x5\r\nabcde\r\n0\r\n\r\n"),
        "chunk longer than it says": _post(chunked, b"2\r\nabcde\r\n0\r\n\r\n"),
        "chunk extensions": _post(chunked + CLOSE, b"1;" + b"a=b;" * 3000 + b"\r\nx\r\n0\r\n\r\n"),
        "chunks of one byte": _post(chunked + CLOSE, b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"),
        "bare line feeds": b"GET /version HTTP/1.1\nHost: x\nConnection: close\n\n",
        "bare returns": b"GET /version HTTP/1.1\rHost: x\r\r",
        "pipelined": _get(b"", end=b"") * 10 + _get(b""),
        "pipelined posts": _post(length, photograph) * 3 + _post(length + CLOSE, photograph),
        "pipelined beyond measure": _get(b"", end=b"") * 2000,
        "a request inside a body": _post(
            b"Content-Length: 44\r\n" + CLOSE,
            b"GET /admin/reload HTTP/1.1\r\nHost: inside\r\n\r\n",
        ),
        "a body behind a GET": _get(length) + photograph,
        "absolute form": _get(b"", b"http://elsewhere/version"),
        "absolute form with a user": _get(b"", b"http://a:b@x:99999/version"),
        "authority form": _get(b"", b"x:80"),
        "HTTP/0.9": b"GET /version\r\n",
        "HTTP/1.0": b"GET /version HTTP/1.0\r\n\r\n",
        "HTTP/1.2": b"GET /version HTTP/1.2\r\n" + HOST + CLOSE + b"\r\n",
        "HTTP/9.9": b"GET /version HTTP/9.9\r\n" + HOST + CLOSE + b"\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(20),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        "nothing but zeros": bytes(4096),
        "nothing but returns": b"\r\n" * 4096,
        "expecting more": _post(b"Expect: 100-continue\r\n" + length + CLOSE, photograph),
        "expecting the unknown": _post(b"Expect: 200-ok\r\n" + length + CLOSE, photograph),
        "expecting and gone": _post(b"Expect: 100-continue\r\n" + length),
    }


def _headers(photograph: bytes) -> dict[str, bytes]:
    body = b"Content-Length: %d\r\n" % len(photograph) + CLOSE
    found = {
        "NUL in a value": _get(b"X-A: a\0b\r\n"),
        "NUL in a name": _get(b"X\0A: b\r\n"),
        "NUL in the target": _get(b"", b"/ver\0sion"),
        "folded": _get(b"X-A: a\r\n b\r\n"),
        "folded with a tab": _get(b"X-A: a\r\n\tb\r\n"),
        "10,000 headers": _get(b"X-A: b\r\n" * 10_000),
        "99 headers": _get(b"X-A: b\r\n" * 90),
        "a header of 1 MiB": _get(b"X-A: " + b"b" * (1 << 20) + b"\r\n"),
        "a target of 1 MiB": _get(b"", b"/" + b"a" * (1 << 20)),
        "a header without a name": _get(b": b\r\n"),
        "a header without a colon": _get(b"X-A\r\n"),
        "no host": b"GET /version HTTP/1.1\r\nConnection: close\r\n\r\n",
        "two hosts": _get(b"Host: y\r\n"),
        "a host that lies": b"GET /docs HTTP/1.1\r\nHost: evil/../x?#@:0\r\n" + CLOSE + b"\r\n",
        "a host that is empty": b"GET /docs HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        "bytes above 127": _get(b"X-A: \xff\xfe\r\nUser-Agent: \xc3\x28\r\n"),
        "query that is not UTF-8": _get(b"", b"/version?\xff\xfe=\xff"),
        "query that is not UTF-8, encoded": _get(b"", b"/version?%ff%fe=%ff"),
        "option that is not UTF-8": _post(body, photograph, path=b"/caption?beam_size=%ff"),
        "option with a NUL": _post(body, photograph, path=b"/caption?beam_size=3%00"),
        "10,000 options": _post(body, photograph, path=b"/caption?" + b"a=b&" * 3000),
        "option given often": _post(body, photograph, path=b"/caption?" + b"beam_size=3&" * 900),
        "a range": _get(b"Range: bytes=" + b"0-1," * 2000 + b"\r\n", b"/page.js"),
        "a range backwards": _get(b"Range: bytes=9-1\r\n", b"/page.js"),
        "a date that is none": _get(
            b'If-Modified-Since: \xff\r\nIf-None-Match: "\r\n', b"/page.js"
        ),
        "an upgrade": _get(b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n"),
        "a charset that is none": _post(
            b"Content-Type: application/json; charset=klingon\r\nContent-Length: 2\r\n" + CLOSE,
            b"{}",
        ),
        "gzip": _post(b"Content-Encoding: gzip\r\n" + body, photograph),
        "a request id that forges": _get(b'X-Request-ID: a"}{"b":"\r\n'),
        "addresses that lie": _get(b'X-Forwarded-For: 1.2.3.4, \xff\r\nForwarded: for="_x"\r\n'),
    }
    for value in TIMEOUTS:
        name = f"X-Request-Timeout: {value[:10]}"
        head = b"X-Request-Timeout: " + value.encode() + b"\r\n"
        found[name] = _post(b"Content-Type: image/jpeg\r\n" + head + body, photograph)
    return found


def _forms(photograph: bytes) -> dict[str, bytes]:
    def form(body: bytes, kind: bytes = b"multipart/form-data; boundary=B") -> bytes:
        head = b"Content-Type: " + kind + b"\r\nContent-Length: %d\r\n" % len(body)
        return _post(head + CLOSE, body)

    def whole(*parts: bytes) -> bytes:
        return form(b"".join((*parts, last)))

    def part(disposition: bytes, content: bytes = b"x") -> bytes:
        head = b"--B\r\nContent-Disposition: form-data; " + disposition
        return head + b"\r\n\r\n" + content + b"\r\n"

    image = part(b'name="image"; filename="a.jpg"', photograph)
    last = b"--B--\r\n"
    return {
        "10,000 images": whole(part(b'name="image"; filename="a"') * 10_000),
        "10,000 fields": whole(part(b'name="a"') * 10_000),
        "10,000 different fields": whole(*(part(b'name="%d"' % n) for n in range(10_000))),
        "no last boundary": form(image),
        "only a boundary": form(last),
        "no boundary in the type": form(image + last, b"multipart/form-data"),
        "an empty boundary": form(image + last, b'multipart/form-data; boundary=""'),
        "a boundary of 10,000": form(image, b"multipart/form-data; boundary=" + b"B" * 10_000),
        "a boundary with returns": form(image, b'multipart/form-data; boundary="a\tb"'),
        "nested": form(
            b"--B\r\nContent-Type: multipart/mixed; boundary=C\r\nContent-Disposition: form-data; "
            b'name="image"\r\n\r\n--C\r\n\r\nx\r\n--C--\r\n--B--\r\n'
        ),
        "a preamble of 1 MiB": whole(b"x" * (1 << 20) + b"\r\n" + image),
        "an epilogue of 1 MiB": form(image + last + b"x" * (1 << 20)),
        "returns without end": whole(b"\r\n" * (1 << 19) + image),
        "a name that is not UTF-8": whole(part(b'name="\xff\xfe"')),
        "a file name that is not UTF-8": whole(part(b'name="image"; filename="\xff"', photograph)),
        "a file name that climbs": whole(
            part(b'name="image"; filename="../../etc/passwd"', photograph)
        ),
        "a name twice": whole(part(b'name="image"; name="beam_size"; filename="a"', photograph)),
        "RFC 2231": whole(part(b"name*=utf-8''image; filename*=x''%ff", photograph)),
        "no disposition": whole(b"--B\r\n\r\nx\r\n"),
        "a part's header of 1 MiB": whole(part(b'name="image"; x="' + b"y" * (1 << 20) + b'"')),
        "1,000 headers of a part": whole(b"--B\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n"),
        "an option of 1 MiB": whole(part(b'name="beam_size"', b"3" * (1 << 20)), image),
        "a form in a URL": _post(
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 600000\r\n"
            + CLOSE,
            b"a=b&" * 150_000,
        ),
        "JSON of 200,000 brackets": form(b"[" * 200_000, JSON),
        "JSON with a lone surrogate": form(rb'{"image": "\ud800"}', JSON),
        "JSON with members twice": form(b'{"image": "", "image": 3}', JSON),
        "JSON of one huge number": form(b'{"beam_size": ' + b"9" * 100_000 + b"}", JSON),
        "JSON in UTF-16": form('{"image": "QUJD"}'.encode("utf-16"), JSON),
    }


async def carry_out(address: Address, data: bytes) -> Effect:
    """Return what comes back until the service closes, or until it is too late."""
    began = time.monotonic()
    received = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(MOST_SECONDS):
            reader, writer = await asyncio.open_connection(*address)
            with closing(writer):
                with suppress(OSError):
                    writer.write(data)
                    await writer.drain()
                while part := await reader.read(65_536):
                    received += part
    statuses = tuple(int(found) for found in ANSWER.findall(received))
    return Effect(statuses, received, time.monotonic() - began)


def is_sane(name: str, effect: Effect) -> bool:
    """Say whether an effect is one that the attack of this name may have."""
    last = effect.received.rpartition(b"HTTP/1.1 ")[2]
    head = last.partition(b"\r\n\r\n")[0]
    is_error = bool(effect.statuses) and effect.statuses[-1] >= 400
    says_why = not is_error or b"/json" in head or b"problem+json" in head
    return (
        effect.seconds < MOST_SECONDS
        and all(status < 500 or status in (503, 504) for status in effect.statuses)
        and b"Traceback" not in effect.received
        and b"root:x:" not in effect.received
        and (says_why or name.startswith(("HEAD ", "CONNECT ")))
    )


async def raw_http(target: Target, report: Report, _: StressOptions) -> None:
    """Report on every attack, eight at once."""
    photograph = photographs(1)[0]
    everything = list(attacks(photograph.data).items())
    before = await asyncio.to_thread(target.levels)
    wrong, silent, slowest = [], [], (0.0, "")
    with Progress(len(everything), "raw HTTP", unit="attacks") as progress:
        for start in range(0, len(everything), 8):
            batch = everything[start : start + 8]
            effects = await asyncio.gather(*(carry_out(target.address, data) for _, data in batch))
            for (name, _data), effect in zip(batch, effects, strict=True):
                slowest = max(slowest, (effect.seconds, name))
                if not is_sane(name, effect):
                    wrong.append(f"{name}: {effect.statuses} {effect.received[-200:]!r}")
                elif not effect.statuses:
                    silent.append(name)
            progress.advance(len(batch))
    report.figure("attacks", len(everything))
    report.figure("closed without an answer", silent)
    report.figure("slowest, seconds", list(slowest))
    report.demand("every answer is a sane one", wrong, not wrong)
    report.demand("unforeseen failures in the log", target.failures(), not target.failures())
    good = await ask_for(target.address, photograph)
    report.demand("a good request afterwards", good.status, good.status == 200)
    await demand_no_descriptor_stays(target, before, report)
