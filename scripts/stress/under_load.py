"""More requests than the service can answer; kills, shutdowns and reloads under load."""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

from captioner.progress import Progress
from stress import Report, StressOptions
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
from stress.target import Target, seconds_until

Result = TypeVar("Result")
DEADLINE_SECONDS = 30.0
REFUSED_WITHIN_SECONDS = 0.05
LEAST_GOODPUT = {5: 0.9, 10: 0.8}  # of the capacity, at so many times it
NICE = 19
PUBLISHED_SECONDS = 1.5  # after which all workers have brought their metrics up to date
MOST_GROWTH_MIB = 50.0
CLIENTS = 8
LEAST_WORKERS = 2
SOON_SECONDS = 15.0  # "within seconds", on a machine whose cores are all busy
QUIET_SECONDS = 3.0  # of load before and after


async def overload(target: Target, report: Report, options: StressOptions) -> None:
    """Report on `seconds` at five and at ten times the capacity, which is measured first.

    The clients run in a niced thread, since they share the machine with the service.
    """
    pictures = cycle(photographs(2000))
    peak = await _niced(lambda: capacity(target.address, pictures, min(15.0, options.seconds)))
    report.figure("capacity, captions/s", peak)
    before = await target.settled_levels()
    report.figure("before", before._asdict())
    every: list[Exchange] = []
    for times, least in LEAST_GOODPUT.items():
        refused_before = await _refused(target)
        rate, seconds = times * peak, options.seconds / len(LEAST_GOODPUT)
        found = await _niced(partial(at_a_rate, target.address, pictures, rate, seconds))
        every += found
        report.figure(f"{times} times the capacity, requests/s", rate)
        report.answers(found)
        _judge_refusals(report, found, await _refused(target) - refused_before)
        began = min(one.began for one in found)
        ends = [one.began + one.seconds - began for one in found if one.status == 200]
        goodput = sum(0.1 * seconds < end <= seconds for end in ends) / (0.9 * seconds)
        report.figure("goodput, captions/s", goodput)
        name = f"goodput at {times} times the capacity at least {least:g} of it"
        report.demand(name, goodput / peak, goodput >= least * peak)
    if target.log is not None:
        answered = target.answered()
        accepted = [one for one in every if one.status == 200]
        lost = sum(answered[one.request_id] != 1 for one in accepted)
        known = {one.request_id for one in every}
        own = {one.request_id for one in accepted}
        unheard = [name for name in answered if name in known and name not in own]
        report.demand("accepted requests answered twice, or unknown to the log", lost, not lost)
        report.demand("captions made that no client got", len(unheard), not unheard)
        report.demand("unforeseen failures in the log", target.failures(), not target.failures())
    after = await target.settled_levels(15.0)
    report.figure("after", after._asdict())
    growth, *more = (now - earlier for now, earlier in zip(after, before, strict=True))
    report.demand(
        f"memory grows by less than {MOST_GROWTH_MIB:g} MiB", growth, growth < MOST_GROWTH_MIB
    )
    report.demand("no descriptor, thread or process stays", more, max(more) <= 0)


def _judge_refusals(report: Report, found: Sequence[Exchange], counted: float) -> None:
    """Report on the answers that are no captions; the service has `counted` so many 429."""
    refused = seconds_of(found, 429)
    unstated = [one.status for one in found if one.status not in (200, 429, 503, 504)]
    report.demand("every request is answered with 200, 429, 503 or 504", unstated[:5], not unstated)
    p99 = percentile(seconds_of(found), 0.99)
    report.demand(f"p99 of accepted below {DEADLINE_SECONDS:g} s", p99, p99 < DEADLINE_SECONDS)
    report.figure("429, median seconds", statistics.median(refused or [float("nan")]))
    report.figure("429, p99 of seconds until a niced client saw it", percentile(refused, 0.99))
    arrived = [
        one.seconds if one.arrived is None else one.arrived for one in found if one.status == 429
    ]
    p99 = percentile(arrived, 0.99)
    report.demand(
        f"p99 of a 429 within {REFUSED_WITHIN_SECONDS:g} s, until it reached the client's machine",
        p99,
        p99 <= REFUSED_WITHIN_SECONDS,
    )
    bare = sum("retry-after" not in one.headers for one in found if one.status == 429)
    report.demand("every 429 has Retry-After", bare, not bare)
    missed = counted - len(refused)
    report.demand("429 that the metrics miss, or count too often", missed, not missed)


async def _refused(target: Target) -> float:
    """Return how many requests the metrics say were answered with 429."""
    await asyncio.sleep(PUBLISHED_SECONDS)
    return await asyncio.to_thread(target.metric, "http_requests_total", 'status="429"')


async def _niced(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Return the result of work that a thread does, with an event loop of its own, niced."""

    def work_niced() -> Result:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread, on Linux
        return asyncio.run(work())

    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work_niced)


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
    under_way: set[asyncio.Task[Exchange]] = set()
    tasks: list[asyncio.Task[Exchange]] = []
    with Progress(count, "overload", unit="requests") as progress:
        for index in range(count):
            await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
            task = asyncio.create_task(ask_for(address, next(pictures)))
            tasks.append(task)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            progress.advance(in_flight=len(under_way))
        return await asyncio.gather(*tasks)


async def kill_decoder(target: Target, report: Report, _: StressOptions) -> None:
    """Report on decoding processes that are killed while they work."""
    rounds, waits = 5, []
    whole = len(target.decoders())
    async with _load(target) as exchanges:
        await asyncio.sleep(QUIET_SECONDS)
        for _round in range(rounds):
            victim = target.decoders()[0]
            os.kill(victim, signal.SIGKILL)
            waits.append(await _until(partial(_is_replaced, target, victim, whole)))
        await asyncio.sleep(QUIET_SECONDS)
    report.answers(exchanges)
    failed = [one for one in exchanges if one.status != 200]
    report.demand(f"requests that fail beside {rounds} kills", len(failed), len(failed) <= rounds)
    report.demand("another decodes within seconds", waits, max(waits) < SOON_SECONDS)
    report.demand("ready at the end", target.is_ready(), target.is_ready())


def _is_replaced(target: Target, dead: int, whole: int) -> bool:
    now = target.decoders()
    return dead not in now and len(now) >= whole


async def kill_worker(target: Target, report: Report, _: StressOptions) -> None:
    """Report on a serving process that is killed beside another."""
    # One that still loads says 503; that is for the start, not for a death.
    await _until(lambda: len(target.workers()) >= LEAST_WORKERS)
    await asyncio.sleep(QUIET_SECONDS)
    workers = target.workers()
    async with _load(target) as exchanges:
        await asyncio.sleep(QUIET_SECONDS)
        in_flight = target.connections(workers[0])
        os.kill(workers[0], signal.SIGKILL)
        killed = time.perf_counter()
        ready = await _until(target.is_ready)
        whole = await _until(lambda: len(set(target.workers()) - {workers[0]}) >= len(workers))
        await asyncio.sleep(2 * QUIET_SECONDS)
    report.answers(exchanges)
    failed = [one for one in exchanges if one.status is None]
    later = [one for one in failed if one.began > killed]
    report.demand(
        f"at most the {in_flight} in flight there fail", len(failed), len(failed) <= in_flight
    )
    report.demand("none that came later fails", len(later), not later)
    refused = [one.status for one in exchanges if one.status not in (None, 200)]
    report.demand("none is refused meanwhile", refused, not refused)
    report.demand("ready again after, seconds", ready, ready < SOON_SECONDS)
    report.demand("all workers there after, seconds", whole, whole < SOON_SECONDS)


async def terminate(target: Target, report: Report, _: StressOptions) -> None:
    """Report on the end of the service under load."""
    async with _load(target, 2 * CLIENTS) as exchanges:
        await asyncio.sleep(QUIET_SECONDS)
        told = time.perf_counter()
        target.main.send_signal(signal.SIGTERM)
        took = await _until(lambda: target.process.poll() is not None)
    report.answers(exchanges)
    report.figure("seconds from SIGTERM to the end", took)
    status = target.process.returncode
    report.demand("exit status 0", status, status == 0)
    earlier = [one for one in exchanges if one.status is None and one.began < told]
    report.demand("requests sent before it that got no answer", len(earlier), not earlier)
    got = {one.request_id for one in exchanges if one.status == 200}
    lost = set(target.answered()) - got
    report.demand("captions made that no client got", len(lost), not lost)
    unstated = [one.status for one in exchanges if one.status not in (None, 200, 503)]
    report.demand("only 200 and 503 are answered", unstated, not unstated)
    report.demand("unforeseen failures in the log", target.failures(), not target.failures())


async def reload(target: Target, report: Report, _: StressOptions) -> None:
    """Report on checkpoints that are loaded anew under load."""
    rounds, waits = 3, []
    async with _load(target) as exchanges:
        for _round in range(rounds):
            await asyncio.sleep(QUIET_SECONDS)
            before = _loaded(target)
            target.main.send_signal(signal.SIGHUP)
            waits.append(await _until(lambda count=before: _loaded(target) > count))  # type: ignore[misc]
        await asyncio.sleep(QUIET_SECONDS)
    report.answers(exchanges)
    report.figure("seconds until the new model serves", waits)
    failed = [one for one in exchanges if one.status != 200]
    report.demand(f"requests that fail beside {rounds} reloads", len(failed), not failed)
    report.demand("every reload happens", max(waits), max(waits) < 4 * SOON_SECONDS)


def _loaded(target: Target) -> int:
    return sum(line.get("event") == "model loaded" for line in target.log_lines())


def _load(target: Target, count: int = CLIENTS) -> AbstractAsyncContextManager[list[Exchange]]:
    return busy_clients(target.address, cycle(photographs(400)), count)


async def _until(condition: Callable[[], bool]) -> float:
    return await asyncio.to_thread(seconds_until, condition)
