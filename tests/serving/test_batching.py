"""The queue: batches, refusals, cancellation, deadlines, swaps and failures, with a model of steps.

The model is replaced by one whose batches a test lets end when it likes; nothing is timed but what
must not take long.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import serving.batching
from captioner.captioner import Caption
from captioner.search_config import SearchConfig
from serving.admission import Ticket
from serving.back_end import Outcome
from serving.batching import MicroBatcher
from serving.errors import CaptioningFailed, DeadlineExceeded, NotReady, Overloaded
from serving.model import LoadedModel

PATIENCE = 60.0
POISON = 13


@dataclass
class Counts:
    """An observer that keeps everything."""

    depths: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def queue_depth(self, number: int) -> None:
        self.depths.append(number)

    def queue_wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def batch(self, size: int) -> None:
        self.batches.append(size)

    def stage(self, name: str, seconds: float) -> None:
        assert seconds > 0
        self.stages.append(name)


class Model:
    """What runs instead of a network: pictures are numbers, captions their names."""

    def __init__(self) -> None:
        self.ran: list[list[int]] = []
        self.threads: set[str] = set()
        self.priorities: set[int] = set()
        self.models: list[str] = []
        self.may_end = threading.Semaphore(0)
        self.is_held = False

    def __call__(self, model: LoadedModel, pixels: list[Any], options: list[Any]) -> Any:
        numbers = [int(one) for one in pixels]
        self.ran.append(numbers)
        self.models.append(model.name)
        self.threads.add(threading.current_thread().name)
        self.priorities.add(os.getpriority(os.PRIO_PROCESS, 0))
        if self.is_held:
            assert self.may_end.acquire(timeout=PATIENCE)
        if POISON in numbers:
            raise RuntimeError("a network\nsays no")
        return [[_caption(f"{model.name} {n}")] * o.num_captions
                for n, o in zip(numbers, options, strict=True)], 0.25, 0.5  # fmt: skip


def _caption(text: str) -> Caption:
    return Caption(
        text=text,
        tokens=(text,),
        log_prob=-1.0,
        score=-1.0,
        attention=None,
        token_log_probs=(-0.5, -0.5),
    )


def loaded(name: str, seconds_per_image: float = 0.01) -> LoadedModel:
    nothing: Any = None
    return LoadedModel(
        captioner=nothing,
        name=name,
        hash="0" * 64,
        folder=Path(name),
        loaded_at=0.0,
        vocabulary=nothing,
        preprocessing=nothing,
        seconds_per_image=seconds_per_image,
    )


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    stand_in = Model()
    monkeypatch.setattr(serving.batching, "captions_of_batch", stand_in)
    return stand_in


def run(
    test: Callable[[MicroBatcher], Awaitable[None]], *, speed: float = 0.01, **options: Any
) -> Counts:
    """Run a test with a started batcher, which is closed afterwards."""
    counts = Counts()

    async def inside() -> None:
        chosen = {"max_batch": 4, "window_seconds": 0.0, "queue_size": 100} | options
        batcher = MicroBatcher(loaded("old", speed), observer=counts, **chosen)
        await batcher.start()
        try:
            async with asyncio.timeout(PATIENCE):
                await test(batcher)
        finally:
            await batcher.close()

    asyncio.run(inside())
    return counts


def later(seconds: float = PATIENCE) -> float:
    return asyncio.get_running_loop().time() + seconds


def ask(
    batcher: MicroBatcher, number: int, ticket: Ticket | None = None, num_captions: int = 1
) -> "asyncio.Task[Outcome]":
    async def request() -> Outcome:
        with ticket or batcher.admit(later()) as held:
            config = SearchConfig(num_captions=num_captions)
            return await batcher.submit(held, torch.tensor(number), config)

    return asyncio.create_task(request())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def text(task: "asyncio.Task[Outcome]") -> str:
    return task.result().captions[0].text


def test_an_idle_model_starts_at_once_and_a_busy_one_takes_what_waits(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        first = ask(batcher, 0)
        await until(lambda: model.ran == [[0]])
        others = [ask(batcher, number, num_captions=1 + number % 3) for number in range(1, 8)]
        await until(lambda: batcher.queue_depth == 7)
        assert batcher.admitted == 8
        for _ in range(3):
            model.may_end.release()
        found = await asyncio.gather(first, *others)
        assert model.ran == [[0], [1, 2, 3, 4], [5, 6, 7]]
        for number, outcome in enumerate(found):
            assert [one.text for one in outcome.captions] == [f"old {number}"] * len(
                outcome.captions
            )
            assert len(outcome.captions) == (1 + number % 3 if number else 1)
            assert (outcome.encode_seconds, outcome.search_seconds) == (0.25, 0.5)
            assert outcome.batch_size == (1, 4, 4, 4, 4, 3, 3, 3)[number]
            assert outcome.model.name == "old"
            assert outcome.queue_seconds >= 0
        assert (batcher.queue_depth, batcher.admitted) == (0, 0)

    counts = run(test, window_seconds=0.005)
    assert counts.batches == [1, 4, 3]
    assert len(counts.waits) == 8
    assert counts.stages == ["encode", "search"] * 3
    assert (max(counts.depths), counts.depths[-1]) == (7, 0)
    assert model.threads == {"model_0"}


def test_a_window_lets_those_join_who_come_while_the_model_is_busy(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        first = ask(batcher, 0)
        await until(lambda: model.ran == [[0]])
        second = ask(batcher, 1)
        await until(lambda: batcher.queue_depth == 1)
        model.may_end.release()
        await first
        await asyncio.sleep(0.02)  # the model is free, the window is open
        assert model.ran == [[0]]
        third = ask(batcher, 2)
        model.may_end.release()
        await asyncio.gather(second, third)
        assert model.ran == [[0], [1, 2]]

    run(test, window_seconds=1.0)


def test_the_loop_goes_on_and_refuses_while_the_model_works(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        request = ask(batcher, 0)
        await until(lambda: model.ran == [[0]])
        began = time.monotonic()
        for _ in range(1000):
            with pytest.raises(Overloaded):
                batcher.admit(later())
        assert time.monotonic() - began < 10.0
        model.may_end.release()
        await request

    run(test, queue_size=1)


def test_a_full_house_and_a_wait_beyond_the_deadline_are_refused_at_once(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        tickets = [batcher.admit(later(), images=2), batcher.admit(later())]
        assert batcher.admitted == 3
        assert batcher.expected_wait_seconds() == pytest.approx(6.0)
        with pytest.raises(Overloaded, match="all 4 places are taken") as full:
            batcher.admit(later(), images=2)
        assert full.value.retry_after_seconds == 6
        with pytest.raises(Overloaded, match=r"expected in 6 seconds") as slow:
            batcher.admit(later(7.0))
        assert slow.value.retry_after_seconds == 6
        with pytest.raises(Overloaded, match=r"expected in 56 seconds"):
            batcher.admit(later(50.0), ahead_seconds=50.0)
        with pytest.raises(DeadlineExceeded):
            batcher.admit(later(-1.0))
        batcher.admit(later(9.0)).release()
        for ticket in tickets:
            ticket.release()
            ticket.release()
        assert batcher.admitted == 0
        batcher.admit(later(0.5)).release()  # alone, an estimate keeps nobody out
        assert model.ran == []

    run(test, queue_size=4, speed=2.0)


def test_more_images_than_places_are_admitted_where_nobody_else_is():
    async def test(batcher: MicroBatcher) -> None:
        with batcher.admit(later(), images=5) as many:
            assert batcher.admitted == 5
            for images in (1, 5):
                with pytest.raises(Overloaded, match="all 4 places are taken"):
                    batcher.admit(later(), images=images)
            many.release()
            with batcher.admit(later()), pytest.raises(Overloaded):
                batcher.check(later(), images=5)
        batcher.expect()  # who comes just before
        assert batcher.why_full(PATIENCE, images=5) is not None
        await asyncio.sleep(0)
        assert batcher.why_full(PATIENCE, images=5) is None

    run(test, queue_size=4)


def test_the_expected_wait_follows_the_measured_speed(model: Model):
    async def test(batcher: MicroBatcher) -> None:
        for _ in range(30):
            await ask(batcher, 1)
        with batcher.admit(later()):
            assert batcher.expected_wait_seconds() < 20.0
        assert len(model.ran) == 30

    run(test, speed=100.0)


def test_cancelled_and_expired_requests_are_never_captioned(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        first = ask(batcher, 0)
        await until(lambda: model.ran == [[0]])
        leaving = [ask(batcher, number) for number in (1, 2)]
        late = ask(batcher, 3, batcher.admit(later(0.05)))
        staying = ask(batcher, 4)
        await until(lambda: batcher.queue_depth == 4)
        for task in leaving:
            task.cancel()
        await until(lambda: batcher.queue_depth <= 2)
        with pytest.raises(DeadlineExceeded):
            await late
        assert batcher.queue_depth == 1
        assert batcher.admitted == 2
        for _ in range(2):
            model.may_end.release()
        await asyncio.gather(first, staying)
        assert model.ran == [[0], [4]]

    run(test)


def test_who_leaves_during_a_batch_harms_nobody_in_it(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        tasks = [ask(batcher, number) for number in range(3)]
        await until(lambda: model.ran == [[0, 1, 2]])
        tasks[1].cancel()
        model.may_end.release()
        await asyncio.wait(tasks)
        assert (text(tasks[0]), text(tasks[2])) == ("old 0", "old 2")
        assert tasks[1].cancelled()
        assert batcher.admitted == 0

    run(test)


def test_one_poisoned_request_fails_alone(model: Model):
    async def test(batcher: MicroBatcher) -> None:
        tasks = [ask(batcher, number) for number in (1, POISON, 2)]
        await asyncio.wait(tasks)
        assert (text(tasks[0]), text(tasks[2])) == ("old 1", "old 2")
        problem = tasks[1].exception()
        assert isinstance(problem, CaptioningFailed)
        assert str(problem) == "the model failed at this image: a network says no"
        assert model.ran == [[1, POISON, 2], [1], [POISON], [2]]
        assert text_of(await ask(batcher, 5)) == "old 5"

    assert run(test).batches == [1, 1, 1]


def text_of(outcome: Outcome) -> str:
    return outcome.captions[0].text


def test_models_are_swapped_between_batches_and_never_mixed(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        first = ask(batcher, 0)
        await until(lambda: model.ran == [[0]])
        decoding = batcher.admit(later())  # for the old model, though it comes later
        waiting = ask(batcher, 1)
        await until(lambda: batcher.queue_depth == 1)
        new = loaded("new")
        batcher.model = new
        assert batcher.model is new
        tasks = [waiting, ask(batcher, 2), ask(batcher, 3, decoding), ask(batcher, 4)]
        await until(lambda: batcher.queue_depth == 4)
        for _ in range(3):
            model.may_end.release()
        await asyncio.gather(first, *tasks)
        assert [text(task) for task in tasks] == ["old 1", "new 2", "old 3", "new 4"]
        assert tasks[1].result().model is new
        assert model.ran == [[0], [1, 3], [2, 4]]
        assert model.models == ["old", "old", "new"]

    run(test)


def test_draining_admits_nobody_and_waits_for_everybody(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        uploading = batcher.admit(later())
        request = ask(batcher, 0)
        await until(lambda: model.ran == [[0]])
        assert not await batcher.drain(0.01)
        with pytest.raises(NotReady):
            batcher.admit(later())
        draining = asyncio.create_task(batcher.drain(PATIENCE))
        last = ask(batcher, 1, uploading)
        for _ in range(2):
            model.may_end.release()
        assert await draining
        assert (text_of(await request), text_of(await last)) == ("old 0", "old 1")

    run(test)


def test_closing_answers_all_who_still_wait(model: Model):
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        running, waiting = ask(batcher, 0), None
        await until(lambda: model.ran == [[0]])
        waiting, ticket = ask(batcher, 1), batcher.admit(later())
        await until(lambda: batcher.queue_depth == 1)
        await batcher.close()
        for task in (running, waiting, ask(batcher, 2, ticket)):
            with pytest.raises(NotReady):
                await task
        model.may_end.release()

    run(test)
    assert model.ran == [[0]]


def test_who_is_expected_counts_until_the_next_turn_of_the_loop():
    async def test(batcher: MicroBatcher) -> None:
        for _ in range(2):
            assert batcher.why_full(PATIENCE) is None
            batcher.expect()
        assert batcher.expected_wait_seconds() == pytest.approx(2 * 0.01)
        assert "all 2 places" in str(batcher.why_full(PATIENCE))
        await asyncio.sleep(0)
        assert batcher.why_full(PATIENCE) is None
        assert batcher.expected_wait_seconds() == 0.0

    run(test, queue_size=2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority")
def test_the_model_runs_nicer_than_the_loop(model: Model):
    async def test(batcher: MicroBatcher) -> None:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        await ask(batcher, 1)
        assert model.priorities == {before + 3}
        assert os.getpriority(os.PRIO_PROCESS, 0) == before

    run(test, nice=3)


def test_before_the_start_nobody_is_admitted():
    async def test() -> None:
        batcher = MicroBatcher(
            loaded("old"), max_batch=8, window_seconds=0.0, queue_size=1, observer=Counts()
        )
        with pytest.raises(NotReady):
            batcher.admit(later())

    asyncio.run(test())


def test_overload_loses_no_accepted_request_and_answers_none_twice(model: Model):
    """Ten times what fits: everyone is answered or refused, and the queue is empty after."""
    answered, refused = [], []

    async def client(batcher: MicroBatcher, number: int) -> None:
        try:
            with batcher.admit(later()) as ticket:
                await asyncio.sleep(0)
                outcome = await batcher.submit(ticket, torch.tensor(number), SearchConfig())
        except Overloaded as problem:
            refused.append(problem.retry_after_seconds)
        else:
            assert text_of(outcome) == f"old {number}"
            answered.append(number)

    async def test(batcher: MicroBatcher) -> None:
        numbers = [number for number in range(400) if number != POISON]
        tasks = [asyncio.create_task(client(batcher, number)) for number in numbers]
        for task in tasks[::7]:
            await asyncio.sleep(0)
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (batcher.admitted, batcher.queue_depth) == (0, 0)

    run(test, queue_size=40)
    assert len(answered) == len(set(answered)) > 20
    assert len(refused) > 100
    ran = [number for batch in model.ran for number in batch]
    assert len(ran) == len(set(ran))
    assert set(answered) <= set(ran)


def test_two_lanes_caption_two_batches_side_by_side(model: Model) -> None:
    model.is_held = True

    async def test(batcher: MicroBatcher) -> None:
        first, second = ask(batcher, 1), None
        while len(model.ran) < 1:
            await asyncio.sleep(0.001)
        second = ask(batcher, 2)
        while len(model.ran) < 2:  # it does not wait for the first
            await asyncio.sleep(0.001)
        others = [ask(batcher, number) for number in (3, 4, 5)]
        await asyncio.sleep(0.05)
        assert model.ran == [[1], [2]]  # both lanes are busy
        assert batcher.expected_wait_seconds() == pytest.approx(5 * 2.0 / 2)
        for _ in range(4):
            model.may_end.release()
        found = await asyncio.gather(first, second, *others)
        assert [one.captions[0].text for one in found] == [f"old {n}" for n in range(1, 6)]

    counts = run(test, speed=2.0, lanes=2)
    assert sorted(counts.batches) == [1, 1, 3]
    assert len(model.threads) == 2
