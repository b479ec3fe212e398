"""Kills, shutdowns and reloads under load."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import cycle

from stress import StressOptions
from stress.client import Exchange, busy_clients, photographs
from stress.report import Report
from stress.target import Target, seconds_until

CLIENTS = 8
LEAST_WORKERS = 2
SOON_SECONDS = 15.0  # "within seconds", on a machine whose cores are all busy
QUIET_SECONDS = 3.0  # of load before and after


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
