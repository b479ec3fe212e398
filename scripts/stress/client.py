"""Minimal HTTP client: one connection per request, no retries, and a load of many of them.

It shares the machine with the service it measures, so it does as little as possible. Every picture
in flight has its own size and every request its own id, so an answer to another request is noticed.
A client that is niced waits for a core itself before it sees an answer; so what the service took
is taken from the kernel, which notes when bytes were sent and when they came.
"""

import asyncio
import io
import json
import socket
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from struct import Struct

import numpy as np
from PIL import Image

Address = tuple[str, int]
TIMEOUT_SECONDS = 60.0  # beyond any deadline of the service
TCP_INFO = Struct("44x3I")  # ms since the last data sent, the last ACK sent, the last data received


@dataclass(frozen=True)
class Picture:
    """A photograph as a file, with the size that tells it from others."""

    data: bytes
    size: tuple[int, int]


@dataclass
class Exchange:
    """One request and what became of it."""

    request_id: str
    began: float = 0.0  # on the clock of time.perf_counter()
    seconds: float = 0.0
    arrived: float | None = None  # seconds from its last byte sent, by the kernel's clock
    status: int | None = None  # None where no whole answer came
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""
    size: tuple[int, int] | None = None  # of the picture

    def is_its_own(self) -> bool:
        """Say whether an answer with captions belongs to this request and its picture."""
        answer = json.loads(self.body)
        image = answer["image"]
        return (
            answer["request_id"] == self.request_id == self.headers.get("x-request-id")
            and bool(answer["caption"])
            and self.size in (None, (image["width"], image["height"]))
        )


def photographs(count: int, seed: int = 0) -> list[Picture]:
    """Return `count` JPEGs of different sizes around 400 by 300."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    large = coarse.resize((600, 500), Image.Resampling.BICUBIC)
    found = []
    for index in range(count):
        size = (320 + index % 200, 240 + index // 200)
        left, top = int(source.integers(0, 80)), int(source.integers(0, 100))
        buffer = io.BytesIO()
        large.crop((left, top, left + size[0], top + size[1])).save(buffer, "JPEG", quality=85)
        found.append(Picture(buffer.getvalue(), size))
    return found


def request_bytes(
    body: bytes, *, path: str = "/caption", kind: str = "image/jpeg", request_id: str = ""
) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: stress\r\nConnection: close\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    if request_id:
        head += f"X-Request-ID: {request_id}\r\n"
    return head.encode() + b"\r\n" + body


async def ask(
    address: Address, body: bytes, *, size: tuple[int, int] | None = None, **head: str
) -> Exchange:
    """Send one request and return what came of it; nothing is raised for what the service does."""
    exchange = Exchange(uuid.uuid4().hex, began=time.perf_counter(), size=size)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(*address)
            with closing(writer):
                writer.write(request_bytes(body, request_id=exchange.request_id, **head))
                with suppress(ConnectionError):  # refused before the body was there: it says why
                    await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
                first, *lines = answer.decode("latin-1").split("\r\n")
                for line in lines:
                    name, _, value = line.partition(":")
                    exchange.headers[name.lower()] = value.strip()
                length = int(exchange.headers.get("content-length", 0))
                exchange.body = await reader.readexactly(length)
                exchange.arrived = _seconds_in_kernel(writer.get_extra_info("socket"))
                exchange.status = int(first.split()[1])
    except TimeoutError:
        exchange.failure = "no answer in time"
    except asyncio.IncompleteReadError:
        exchange.failure = "the connection ended before the answer"
    except OSError as problem:
        exchange.failure = type(problem).__name__
    exchange.seconds = time.perf_counter() - exchange.began
    return exchange


def _seconds_in_kernel(connection: socket.socket) -> float | None:
    """Return the time between the last bytes sent and the last received, to a few milliseconds.

    None where the kernel does not say: it is Linux that does (struct tcp_info).
    """
    if sys.platform != "linux":
        return None
    facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    since_sent, _, since_received = TCP_INFO.unpack(facts)
    return (since_sent - since_received) / 1000


async def ask_for(address: Address, picture: Picture) -> Exchange:
    return await ask(address, picture.data, size=picture.size)


@asynccontextmanager
async def busy_clients(
    address: Address, pictures: Iterator[Picture], count: int, *, pause: float = 0.0
) -> AsyncIterator[list[Exchange]]:
    """Let clients send a request each as soon as their last one is answered; give the exchanges."""
    exchanges: list[Exchange] = []
    is_over = asyncio.Event()

    async def client() -> None:
        while not is_over.is_set():
            exchange = await ask_for(address, next(pictures))
            exchanges.append(exchange)
            # A refused client waits as a polite one would, so that it does not only burn cores.
            rest = pause if exchange.status == 200 else max(pause, 0.1)
            if rest:
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), rest)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(client())
        yield exchanges
        is_over.set()


def statuses(exchanges: Iterable[Exchange]) -> dict[str, int]:
    """Return how many had each status, or failed."""
    found = Counter(str(one.status) if one.status else one.failure for one in exchanges)
    return dict(sorted(found.items()))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed; nan of none."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def seconds_of(exchanges: Iterable[Exchange], status: int = 200) -> list[float]:
    return [one.seconds for one in exchanges if one.status == status]


def latency(exchanges: Iterable[Exchange]) -> dict[str, float]:
    """Return what the answered ones took, in seconds."""
    values = seconds_of(exchanges)
    return {
        "median": statistics.median(values) if values else float("nan"),
        "p99": percentile(values, 0.99),
        "longest": max(values, default=float("nan")),
    }
