"""Ten times more requests than the service can answer."""

import asyncio
import statistics
from collections.abc import Iterator
from itertools import cycle

from captioner.progress import Progress
from stress import StressOptions
from stress.client import (
    Address,
    Exchange,
    Picture,
    ask_for,
    busy_clients,
    percentile,
    photographs,
    seconds_of,
)
from stress.report import Report
from stress.target import Target

DEADLINE_SECONDS = 30.0
REFUSED_WITHIN_SECONDS = 0.05
LEAST_GOODPUT = 0.9  # of the peak
MOST_GROWTH_MIB = 50.0


async def overload(target: Target, report: Report, options: StressOptions) -> None:
    """Report on `seconds` at ten times the capacity, which is measured first."""
    seconds, pictures = options.seconds, cycle(photographs(2000))
    peak = await capacity(target.address, pictures, min(15.0, seconds))
    report.figure("capacity, captions/s", peak)
    before = await target.settled_levels()
    report.figure("before", before.text())
    found = await at_a_rate(target.address, pictures, 10 * peak, seconds)
    report.answers(found)
    accepted = [one for one in found if one.status == 200]
    refused = seconds_of(found, 429)
    report.figure(
        "429, seconds",
        {"median": statistics.median(refused or [0.0]), "p99": percentile(refused, 0.99)},
    )
    unstated = [one.status for one in found if one.status not in (200, 429, 503, 504)]
    report.demand("every request is answered with 200, 429, 503 or 504", unstated[:5], not unstated)
    if target.log is not None:
        answered = target.answered()
        lost = sum(answered[one.request_id] != 1 for one in accepted)
        known = {one.request_id for one in found}
        own = {one.request_id for one in accepted}
        unheard = [name for name in answered if name in known and name not in own]
        report.demand("accepted requests answered twice, or unknown to the log", lost, not lost)
        report.demand("captions made that no client got", len(unheard), not unheard)
        report.demand("unforeseen failures in the log", target.failures(), not target.failures())
    p99 = percentile(seconds_of(found), 0.99)
    report.demand(f"p99 of accepted below {DEADLINE_SECONDS:g} s", p99, p99 < DEADLINE_SECONDS)
    median = statistics.median(refused or [float("nan")])
    report.demand("median 429 within 0.05 s", median, median <= REFUSED_WITHIN_SECONDS)
    bare = sum("retry-after" not in one.headers for one in found if one.status == 429)
    report.demand("every 429 has Retry-After", bare, not bare)
    began = min(one.began for one in found)
    ends = [one.began + one.seconds - began for one in accepted]
    goodput = sum(0.1 * seconds < end <= seconds for end in ends) / (0.9 * seconds)
    report.figure("goodput, captions/s", goodput)
    report.demand(
        f"goodput at least {LEAST_GOODPUT:g} of the peak",
        goodput / peak,
        goodput >= LEAST_GOODPUT * peak,
    )
    after = await target.settled_levels(15.0)
    report.figure("after", after.text())
    growth, *more = (now - earlier for now, earlier in zip(after, before, strict=True))
    report.demand(
        f"memory grows by less than {MOST_GROWTH_MIB:g} MiB", growth, growth < MOST_GROWTH_MIB
    )
    report.demand("no descriptor, thread or process stays", more, max(more) <= 0)


async def capacity(address: Address, pictures: Iterator[Picture], seconds: float) -> float:
    """Return the captions per second that as many clients get as fill two batches."""
    async with busy_clients(address, pictures, 16) as exchanges:
        await asyncio.sleep(min(3.0, seconds))
        before = len(exchanges)
        await asyncio.sleep(seconds)
        done = sum(one.status == 200 for one in exchanges[before:])
    return done / seconds


async def at_a_rate(
    address: Address, pictures: Iterator[Picture], rate: float, seconds: float
) -> list[Exchange]:
    """Return what came of requests that are sent at a steady rate for some seconds."""
    loop = asyncio.get_running_loop()
    began, count = loop.time(), round(rate * seconds)
    tasks: list[asyncio.Task[Exchange]] = []
    with Progress(count, "overload", unit="requests") as progress:
        for index in range(count):
            await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
            tasks.append(asyncio.create_task(ask_for(address, next(pictures))))
            progress.advance(in_flight=sum(not one.done() for one in tasks[-2000:]))
        return await asyncio.gather(*tasks)
