"""Clients that hang up halfway, and slow clients that occupy what others need."""

import argparse
import asyncio
import random
import socket
import time
from contextlib import suppress

from stress.client import (
    Address,
    Picture,
    ask_for,
    endless,
    latency,
    percentile,
    photographs,
    request_bytes,
    seconds_of,
    statuses,
)
from stress.load import ClosedLoad
from stress.report import Report
from stress.target import Levels, Target

HANG_UPS = 1000
SLOW = 200
CUT_SECONDS = 10.0 + 2.0 + 4.0  # the service's deadline, its time to close, ours to look
POST = b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


async def hang_ups(target: Target, report: Report, given: argparse.Namespace) -> None:
    """Report on 1,000 clients that hang up, over `seconds`, beside some that do not."""
    seconds: float = given.seconds
    pictures = endless(photographs(400))
    undisturbed = ClosedLoad(target.address, pictures, clients=2, pause=0.2)
    async with undisturbed:
        await asyncio.sleep(max(10.0, seconds / 2))
    report.figure("undisturbed, seconds", latency(undisturbed.exchanges))
    before = await asyncio.to_thread(target.settled_levels)
    cancelled = await asyncio.to_thread(target.metric, "caption_cancelled_total")
    good = ClosedLoad(target.address, pictures, clients=2, pause=0.2)
    async with good:
        tasks = []
        for index in range(HANG_UPS):
            tasks.append(asyncio.create_task(hang_up(target.address, next(pictures), index)))
            await asyncio.sleep(seconds / HANG_UPS)
        await asyncio.gather(*tasks)
    report.figure("beside hang-ups, seconds", latency(good.exchanges))
    report.figure("good traffic", statuses(good.exchanges))
    others = [one for one in good.exchanges if one.status != 200]
    report.demand("all good traffic is answered", len(others), not others)
    ratio = percentile(seconds_of(good.exchanges), 0.99) / percentile(
        seconds_of(undisturbed.exchanges), 0.99
    )
    report.demand("p99 of good traffic at most doubles", ratio, ratio <= 2.0)
    drained = await _drain(target, pictures_at_once=[next(pictures) for _ in range(60)])
    alone = percentile(seconds_of(undisturbed.exchanges), 0.5)
    report.figure("a request right after 60 queued ones hung up, seconds", drained)
    limit = 8 * alone + 1.0  # the batch that the model was at cannot be taken back
    report.demand(f"the queue drains at once: below {limit:.2g} s", drained, drained < limit)
    counted = await asyncio.to_thread(target.metric, "caption_cancelled_total")
    report.figure("counted as cancelled", counted - cancelled)
    await demand_no_descriptor_stays(target, before, report)


async def demand_no_descriptor_stays(target: Target, before: Levels, report: Report) -> None:
    after = await asyncio.to_thread(target.settled_levels)
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


async def slow(target: Target, report: Report, _: argparse.Namespace) -> None:
    """Report on 200 clients of each kind that are slow in their own way."""
    pictures = endless(photographs(100))
    async with ClosedLoad(target.address, pictures, clients=2, pause=0.5):
        await asyncio.sleep(5)
    before = await asyncio.to_thread(target.settled_levels)
    good = ClosedLoad(target.address, pictures, clients=2, pause=0.5)
    kinds = {
        "slow headers": (dripping, b"GET /version HTTP/1.1\r\nX-Endless: ", b"x"),
        "silent connections": (dripping, b"", b""),
        "slow bodies": (dripping, POST + b"Content-Length: 1000\r\n\r\n", b"x"),
        "slow chunks": (
            dripping,
            POST + b"Transfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
        ),
        "endless chunks": (flooding, POST + b"Transfer-Encoding: chunked\r\n\r\n", b""),
        "slow readers": (not_reading, b"", b""),
    }
    async with good:
        for name, (attack, start, drop) in kinds.items():
            count = 10 if attack is flooding else SLOW // (4 if attack is not_reading else 1)
            held = await asyncio.gather(
                *(attack(target.address, start, drop) for _ in range(count))
            )
            late = sum(one > CUT_SECONDS for one in held)
            report.demand(f"{count} {name} are cut within {CUT_SECONDS:g} s", max(held), not late)
    report.figure("good traffic beside them", statuses(good.exchanges))
    report.figure("good traffic beside them, seconds", latency(good.exchanges))
    others = [one for one in good.exchanges if one.status != 200]
    report.demand("all good traffic is answered", len(others), not others)
    await demand_no_descriptor_stays(target, before, report)


async def dripping(address: Address, start: bytes, drop: bytes) -> float:
    """Return after how many seconds a connection ends that sends a little now and then."""
    began = time.monotonic()
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(start)
            while time.monotonic() - began < 2 * CUT_SECONDS:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        while await reader.read(65_536):
                            pass
                        break
                writer.write(drop)
        finally:
            writer.close()
    return time.monotonic() - began


async def flooding(address: Address, start: bytes, _: bytes) -> float:
    """Return after how many seconds a body without end is cut."""
    began = time.monotonic()
    with suppress(OSError):
        _reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(start)
            while time.monotonic() - began < 2 * CUT_SECONDS:
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                async with asyncio.timeout(2 * CUT_SECONDS):
                    await writer.drain()
        finally:
            writer.transport.abort()
    return time.monotonic() - began


async def not_reading(address: Address, _: bytes, __: bytes) -> float:
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
