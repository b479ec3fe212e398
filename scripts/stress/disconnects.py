"""Clients that hang up halfway, and slow clients that occupy what others need."""

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from itertools import cycle

from stress import Report, StressOptions
from stress.client import (
    Address,
    Exchange,
    Picture,
    ask_for,
    busy_clients,
    latency,
    percentile,
    photographs,
    request_bytes,
    seconds_of,
    statuses,
)
from stress.target import Levels, Target

HANG_UPS = 1000
CUT_SECONDS = 10.0 + 2.0 + 4.0  # the service's deadline, its time to close, ours to look
GET = b"GET /version HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
LENGTH = POST + b"Content-Length: 1000\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def hang_ups(target: Target, report: Report, options: StressOptions) -> None:
    """Report on 1,000 clients that hang up, over `seconds`, beside some that do not."""
    pictures = cycle(photographs(400))
    async with busy_clients(target.address, pictures, 2, pause=0.2) as undisturbed:
        await asyncio.sleep(max(10.0, options.seconds / 2))
    report.figure("undisturbed, seconds", latency(undisturbed))
    before = await target.settled_levels()
    cancelled = await asyncio.to_thread(target.metric, "caption_cancelled_total")
    async with (
        busy_clients(target.address, pictures, 2, pause=0.2) as good,
        asyncio.TaskGroup() as group,
    ):
        for index in range(HANG_UPS):
            group.create_task(hang_up(target.address, next(pictures), index))
            await asyncio.sleep(options.seconds / HANG_UPS)
    _demand_good_traffic(good, report)
    alone, beside = seconds_of(undisturbed), seconds_of(good)
    ratio = percentile(beside, 0.99) / percentile(alone, 0.99)
    report.demand("p99 of good traffic at most doubles", ratio, ratio <= 2.0)
    drained = await _drain(target, pictures_at_once=[next(pictures) for _ in range(60)])
    report.figure("a request right after 60 queued ones hung up, seconds", drained)
    # The batch that the model was at cannot be taken back.
    limit = 8 * percentile(alone, 0.5) + 1.0
    report.demand(f"the queue drains at once: below {limit:.2g} s", drained, drained < limit)
    counted = await asyncio.to_thread(target.metric, "caption_cancelled_total")
    report.figure("counted as cancelled", counted - cancelled)
    await demand_no_descriptor_stays(target, before, report)


def _demand_good_traffic(good: list[Exchange], report: Report) -> None:
    report.figure("good traffic beside them", statuses(good))
    report.figure("good traffic beside them, seconds", latency(good))
    others = sum(one.status != 200 for one in good)
    report.demand("all good traffic is answered", others, not others)


async def demand_no_descriptor_stays(target: Target, before: Levels, report: Report) -> None:
    after = await target.settled_levels()
    more = after.descriptors - before.descriptors
    report.demand("no descriptor stays", more, more <= 0)


async def hang_up(address: Address, picture: Picture, index: int) -> None:
    """Leave in the middle of a header, of a body, or before the answer; politely or not."""
    source = random.Random(index)
    whole = request_bytes(picture.data)
    shares = (source.randrange(80), len(whole) // 2, len(whole))
    with suppress(OSError):
        _, writer = await asyncio.open_connection(*address)
        writer.write(whole[: shares[index % 3]])
        await asyncio.sleep(source.uniform(0.0, 0.2))
        if source.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()


async def _drain(target: Target, pictures_at_once: list[Picture]) -> float:
    """Return how long a request takes that comes when a full queue has just hung up."""
    writers = []
    for picture in pictures_at_once:
        _, writer = await asyncio.open_connection(*target.address)
        writer.write(request_bytes(picture.data))
        writers.append(writer)
    await asyncio.sleep(0.7)  # most are decoded and wait for the model
    for writer in writers:
        writer.transport.abort()
    began = time.monotonic()
    while (await ask_for(target.address, pictures_at_once[0])).status != 200:
        if time.monotonic() - began > 60:
            return float("inf")
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def slow(target: Target, report: Report, _: StressOptions) -> None:
    """Report on 200 clients of each kind that are slow in their own way, or fewer."""
    pictures = cycle(photographs(100))
    async with busy_clients(target.address, pictures, 2, pause=0.5):
        await asyncio.sleep(5)
    before = await target.settled_levels()
    async with busy_clients(target.address, pictures, 2, pause=0.5) as good:
        for name, (count, attack) in SLOW.items():
            held = await asyncio.gather(*(attack(target.address) for _ in range(count)))
            is_cut = max(held) <= CUT_SECONDS
            report.demand(f"{count} {name} are cut within {CUT_SECONDS:g} s", max(held), is_cut)
    _demand_good_traffic(good, report)
    await demand_no_descriptor_stays(target, before, report)


async def dripping(address: Address, start: bytes, drop: bytes) -> float:
    """Return after how many seconds a connection ends that sends a little now and then."""
    began = time.monotonic()
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(*address)
        with closing(writer):
            writer.write(start)
            while time.monotonic() - began < 2 * CUT_SECONDS:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        while await reader.read(65_536):
                            pass
                        break
                writer.write(drop)
    return time.monotonic() - began


async def flooding(address: Address) -> float:
    """Return after how many seconds a body without end is cut."""
    began = time.monotonic()
    with suppress(OSError):
        _, writer = await asyncio.open_connection(*address)
        try:
            writer.write(CHUNKED)
            while time.monotonic() - began < 2 * CUT_SECONDS:
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                async with asyncio.timeout(2 * CUT_SECONDS):
                    await writer.drain()
        finally:
            writer.transport.abort()
    return time.monotonic() - began


async def not_reading(address: Address) -> float:
    """Return after how many seconds a connection is cut that asks much and reads nothing."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    began = time.monotonic()
    with connection, suppress(OSError):
        await loop.sock_connect(connection, address)
        await loop.sock_sendall(
            connection, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX-Padding: a\r\n\r\n" * 16
        )
        while time.monotonic() - began < 2 * CUT_SECONDS:
            await asyncio.sleep(0.25)
            # More requests are refused once the connection is gone, without reading an answer.
            await loop.sock_sendall(connection, b"\r\n")
    return time.monotonic() - began


SLOW: dict[str, tuple[int, Callable[[Address], Awaitable[float]]]] = {  # how many of each
    "slow headers": (200, partial(dripping, start=GET + b"X-Endless: ", drop=b"x")),
    "silent connections": (200, partial(dripping, start=b"", drop=b"")),
    "slow bodies": (200, partial(dripping, start=LENGTH, drop=b"x")),
    "slow chunks": (200, partial(dripping, start=CHUNKED, drop=b"1\r\nx\r\n")),
    "endless chunks": (10, flooding),
    "slow readers": (50, not_reading),
}
