"""Thousands of mutated images and some bombs, sent to the real service."""

import argparse
import asyncio
from collections import Counter
from itertools import islice

from captioner.progress import Progress
from stress.client import Exchange, ask, statuses
from stress.hostile_images import bombs, mutation, originals
from stress.report import Report
from stress.target import Target

ALLOWED = (200, 413, 415, 422)
AT_ONCE = 4
FORMS = ("image/jpeg", "application/octet-stream")


async def mutations(target: Target, report: Report, given: argparse.Namespace) -> None:
    """Report on `count` mutations of `seed`; files with a wrong answer go to the folder `keep`."""
    count, seed, kept = given.count, given.seed, given.keep
    cases, loud = originals(), bombs()
    before = await asyncio.to_thread(target.levels)
    killed = await asyncio.to_thread(target.metric, "caption_decode_killed_total")
    uploads = [(name, data) for name, data in (*cases.items(), *loud.items())]
    with Progress(len(uploads) + count, "mutations", unit="images") as progress:
        sound = await _send(target, uploads, progress)
        of_bombs = {name: one for (name, _), one in zip(uploads, sound, strict=True)}
        mutated = (mutation(seed, index, cases) for index in range(count))
        names, found = [], []
        while batch := list(islice(mutated, 200)):
            answers = await _send(target, batch, progress)
            names += [name for name, _ in batch]
            found += answers
            for (name, data), one in zip(batch, answers, strict=True):
                if one.status not in ALLOWED and kept is not None:
                    kept.mkdir(parents=True, exist_ok=True)
                    label = f"{name.replace(' ', '_')}-{one.status}-{one.request_id}"
                    (kept / label).write_bytes(data)
    refused = [name for name in cases if of_bombs[name].status != 200]
    report.demand("sound files of every kind that are not captioned", refused, not refused)
    report.figure("bombs", {name: of_bombs[name].status for name in loud})
    slowest = max(loud, key=lambda name: of_bombs[name].seconds)
    report.figure("slowest bomb", {slowest: of_bombs[slowest].seconds})
    report.figure("mutations", statuses(found))
    report.figure("slowest mutation, seconds", max((one.seconds for one in found), default=0.0))
    still = Counter(name for name, one in zip(names, found, strict=True) if one.status == 200)
    report.figure("mutations that are still captioned", dict(still))
    wrong = statuses(one for one in (*sound, *found) if one.status not in ALLOWED)
    report.demand("only 200, 413, 415 and 422", wrong, not wrong)
    bare = sum(
        "problem+json" not in one.headers.get("content-type", "")
        for one in (*sound, *found)
        if one.status in ALLOWED[1:]
    )
    report.demand("every refusal is a problem", bare, not bare)
    report.demand("unforeseen failures in the log", target.failures(), not target.failures())
    now = await asyncio.to_thread(target.metric, "caption_decode_killed_total")
    report.figure("decoding processes killed", now - killed)
    after = await asyncio.to_thread(target.settled_levels)
    report.figure("memory before and after, MiB", [before.memory_mib, after.memory_mib])
    report.demand("ready at the end", target.is_ready(), target.is_ready())


async def _send(
    target: Target, uploads: list[tuple[str, bytes]], progress: Progress
) -> list[Exchange]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, data: bytes) -> Exchange:
        async with places:
            # Greedy and short: what is tested here is before the model.
            exchange = await ask(
                target.address,
                data,
                kind=FORMS[index % len(FORMS)],
                path="/caption?beam_size=1&max_length=1",
            )
        progress.advance()
        return exchange

    return list(
        await asyncio.gather(*(one(index, data) for index, (_, data) in enumerate(uploads)))
    )
