"""Load generators: a number of clients as fast as they can go, or a fixed rate of requests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from captioner.progress import Progress
from stress.client import Address, Exchange, Picture, ask_for

Sender = Callable[[], Awaitable[Exchange]]


class ClosedLoad:
    """Clients that each send a request as soon as their last one is answered."""

    def __init__(
        self, address: Address, pictures: Iterator[Picture], *, clients: int, pause: float = 0.0
    ) -> None:
        self.exchanges: list[Exchange] = []
        self._address = address
        self._pictures = pictures
        self._clients = clients
        self._pause = pause
        self._is_over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "ClosedLoad":
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over.set()
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        while not self._is_over.is_set():
            exchange = await ask_for(self._address, next(self._pictures))
            self.exchanges.append(exchange)
            # A refused client waits as a polite one would, so that it does not only burn cores.
            pause = self._pause if exchange.status == 200 else max(self._pause, 0.1)
            if pause:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_over.wait(), pause)


async def capacity(address: Address, pictures: Iterator[Picture], seconds: float) -> float:
    """Return the captions per second that as many clients get as fill two batches."""
    load = ClosedLoad(address, pictures, clients=16)
    async with load:
        await asyncio.sleep(min(3.0, seconds))
        before = len(load.exchanges)
        await asyncio.sleep(seconds)
        done = sum(one.status == 200 for one in load.exchanges[before:])
    return done / seconds


async def open_load(
    send: Sender, *, rate: float, seconds: float, description: str
) -> list[Exchange]:
    """Return what came of requests that are sent at a steady rate for some seconds."""
    loop = asyncio.get_running_loop()
    began, count = loop.time(), round(rate * seconds)
    tasks: list[asyncio.Task[Exchange]] = []
    with Progress(count, description, unit="requests") as progress:
        for index in range(count):
            await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
            tasks.append(asyncio.ensure_future(send()))
            progress.advance(in_flight=sum(not one.done() for one in tasks[-2000:]))
        return list(await asyncio.gather(*tasks))
