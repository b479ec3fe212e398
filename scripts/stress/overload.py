"""Ten times more requests than the service can answer."""

import argparse
import asyncio
import statistics

from stress.client import STATED, ask_for, endless, latency, percentile, photographs, seconds_of
from stress.client import statuses as statuses_of
from stress.load import capacity, open_load
from stress.report import Report
from stress.target import Target

DEADLINE_SECONDS = 30.0
REFUSED_WITHIN_SECONDS = 0.05
LEAST_GOODPUT = 0.9  # of the peak
MOST_GROWTH_MIB = 50.0


async def overload(target: Target, report: Report, given: argparse.Namespace) -> None:
    """Report on `seconds` at ten times the capacity, which is measured first."""
    seconds: float = given.seconds
    pictures = endless(photographs(2000))
    peak = await capacity(target.address, pictures, min(15.0, seconds))
    report.figure("capacity, captions/s", peak)
    before = await asyncio.to_thread(target.settled_levels)
    report.figure("before", before.text())
    found = await open_load(
        lambda: ask_for(target.address, next(pictures)),
        rate=10 * peak,
        seconds=seconds,
        description="overload",
    )
    report.figure("statuses", statuses_of(found))
    accepted = [one for one in found if one.status == 200]
    refused = seconds_of(found, 429)
    report.figure("accepted, seconds", latency(found))
    report.figure(
        "429, seconds",
        {"median": statistics.median(refused or [0.0]), "p99": percentile(refused, 0.99)},
    )
    unstated = [one.status for one in found if one.status not in (200, 429, *STATED)]
    report.demand("every request is answered with 200, 429, 503 or 504", unstated[:5], not unstated)
    foreign = sum(not one.is_its_own() for one in accepted)
    report.demand("every answer belongs to its request and picture", foreign, not foreign)
    if target.has_log:
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
    after = await asyncio.to_thread(target.settled_levels, 15.0)
    report.figure("after", after.text())
    growth = after.memory_mib - before.memory_mib
    report.demand(
        f"memory grows by less than {MOST_GROWTH_MIB:g} MiB", growth, growth < MOST_GROWTH_MIB
    )
    report.demand(
        "no descriptor, thread or process stays",
        [
            after.descriptors - before.descriptors,
            after.threads - before.threads,
            after.processes - before.processes,
        ],
        after.descriptors <= before.descriptors
        and after.threads <= before.threads
        and after.processes <= before.processes,
    )
