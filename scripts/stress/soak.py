"""An hour of good and hostile traffic, and the memory of the service's processes over it."""

import asyncio
import base64
import itertools
import json
import random
import statistics
import time
from collections import Counter

from captioner.progress import duration
from stress import Report, StressOptions
from stress.attacks import attacks, carry_out, is_sane
from stress.client import Exchange, Picture, ask, ask_for, latency, photographs
from stress.disconnects import SLOW, hang_up
from stress.hostile_images import ALLOWED, bombs, mutation, originals
from stress.target import Levels, Target

GOOD_SHARE = 0.6
MOST_GROWTH_MIB = 50.0
WARM_UP_SHARE = 0.08  # of the time: buffers, arenas and threads come with the first requests


class _Traffic:
    """Makes one request after the other, good or bad, and keeps what was wrong."""

    def __init__(self, target: Target, seed: int) -> None:
        self.address = target.address
        self.source = random.Random(seed)
        self.seed = seed
        self.pictures = itertools.cycle(photographs(300, seed))
        self.originals = originals()
        self.bombs = list(bombs().items())
        self.attacks = list(attacks(next(self.pictures).data).items())
        self.good: list[Exchange] = []
        self.kinds: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def one(self, index: int) -> None:
        good = (self._caption, self._json, self._form, self._openai)
        bad = (self._mutation, self._bomb, self._attack, self._hang_up, self._slow)
        is_good = self.source.random() < GOOD_SHARE
        kind = self.source.choice(good if is_good else (self._mutation, *bad))
        self.kinds[kind.__name__.strip("_")] += 1
        await kind(index)

    async def _caption(self, _: int) -> None:
        self._keep(await ask_for(self.address, next(self.pictures)))

    async def _json(self, _: int) -> None:
        picture = next(self.pictures)
        body = json.dumps({"image": _base64(picture), "num_captions": 2}).encode()
        self._keep(await ask(self.address, body, kind="application/json", size=picture.size))

    async def _form(self, _: int) -> None:
        picture = next(self.pictures)
        head = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        body = head + picture.data + b"\r\n--B--\r\n"
        kind = "multipart/form-data; boundary=B"
        self._keep(await ask(self.address, body, kind=kind, size=picture.size))

    async def _openai(self, _: int) -> None:
        url = {"url": "data:image/jpeg;base64," + _base64(next(self.pictures))}
        content = [{"type": "image_url", "image_url": url}]
        body = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
        found = await ask(self.address, body, path="/v1/chat/completions", kind="application/json")
        self.good.append(found)
        if found.status not in (200, 429):
            self.wrong.append(f"openai: {found.status} {found.failure}")

    async def _mutation(self, index: int) -> None:
        name, data = mutation(self.seed, index, self.originals)
        self._judge(f"mutation {index} of {name}", await ask(self.address, data))

    async def _bomb(self, _: int) -> None:
        name, data = self.source.choice(self.bombs)
        self._judge(name, await ask(self.address, data))

    async def _attack(self, _: int) -> None:
        name, data = self.source.choice(self.attacks)
        effect = await carry_out(self.address, data)
        if not is_sane(name, effect):
            self.wrong.append(f"{name}: {effect.statuses} {effect.received[-100:]!r}")

    async def _hang_up(self, index: int) -> None:
        await hang_up(self.address, next(self.pictures), index)

    async def _slow(self, index: int) -> None:
        _, attack = SLOW[("slow headers", "slow bodies", "slow readers")[index % 3]]
        await attack(self.address)

    def _keep(self, found: Exchange) -> None:
        self.good.append(found)
        if found.status == 200 and not found.is_its_own():
            self.wrong.append(f"an answer to another request: {found.request_id}")
        elif found.status not in (200, 429):
            self.wrong.append(f"good request: {found.status} {found.failure}")

    def _judge(self, name: str, found: Exchange) -> None:
        if found.status not in (*ALLOWED, 429):
            self.wrong.append(f"{name}: {found.status} {found.failure}")


async def soak(target: Target, report: Report, options: StressOptions) -> None:
    """Report on `minutes` of mixed traffic at `rate` requests per second."""
    traffic, rate = _Traffic(target, options.seed), options.rate
    seconds, every = options.minutes * 60, max(5.0, options.minutes)
    began = time.monotonic()
    samples: list[tuple[float, Levels]] = []
    running: set[asyncio.Task[None]] = set()
    next_sample = every
    for index in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + index / rate - time.monotonic()))
        task = asyncio.create_task(traffic.one(index))
        running.add(task)
        task.add_done_callback(running.discard)
        passed = time.monotonic() - began
        if passed >= next_sample:
            next_sample = passed + every
            levels = await asyncio.to_thread(target.levels)
            samples.append((passed, levels))
            print(
                f"  soak: {duration(passed)} of {duration(seconds)}, {index + 1:,} requests, "
                f"{len(traffic.wrong)} wrong, {len(running)} open, {levels.memory_mib:.0f} MiB, "
                f"{levels.descriptors} descriptors, {levels.threads} threads, "
                f"{levels.processes} processes",
                flush=True,
            )
    await asyncio.gather(*running, return_exceptions=True)
    end = await target.settled_levels(15.0)
    total = samples[-1][0]
    few = len(samples) // 6 + 1
    early = [one for passed, one in samples if passed >= WARM_UP_SHARE * total][:few]
    late = [one for _, one in samples[-few:]]
    report.figure("requests", dict(traffic.kinds))
    report.figure("good ones, seconds", latency(traffic.good))
    refused = sum(one.status == 429 for one in traffic.good)
    report.figure("good ones refused as overload", refused)
    report.figure("first sample", samples[0][1]._asdict())
    report.figure("after the warm-up", early[0]._asdict())
    report.figure("at the end, without traffic", end._asdict())
    report.demand("every answer is as stated", traffic.wrong[:10], not traffic.wrong)
    report.demand("unforeseen failures in the log", target.failures(), not target.failures())
    grown = {
        name: statistics.median(getattr(one, name) for one in late)
        - statistics.median(getattr(one, name) for one in early)
        for name in Levels._fields
    }
    growth = grown.pop("memory_mib")
    report.demand(
        f"memory grows by less than {MOST_GROWTH_MIB:g} MiB", growth, growth < MOST_GROWTH_MIB
    )
    for name, more in grown.items():
        least = min(getattr(one, name) for one in early)
        report.demand(f"{name} do not grow", more, more <= 0.1 * least)
        beyond = getattr(end, name) - least
        report.demand(f"{name} at the end as before", beyond, beyond <= 0)


def _base64(picture: Picture) -> str:
    return base64.b64encode(picture.data).decode()
