"""Clients for ordinary code and for asyncio: one photograph, or many over several connections."""

import asyncio
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, Unpack

from captioner.client.responses import CaptionResponse
from captioner.client.retries import (
    CaptionRequest,
    Outcome,
    Photograph,
    RequestOptions,
    ServiceClient,
    concerns_all,
    listed,
    query_of,
    read,
)
from captioner.errors import CaptionerError, OptionError, ServiceError
from captioner.progress import Progress


class CaptionClient(ServiceClient):
    """The client for ordinary code, which threads may share; made as `ServiceClient` says."""

    _kind = ""

    def caption(self, photograph: Photograph, **options: Unpack[RequestOptions]) -> CaptionResponse:
        """Return the captions of a photograph: a path, or the bytes of an image file.

        `options` are those of `captioner.client.RequestOptions`.

        Raises:
            ImageError: the file cannot be read.
            ServiceError: the service refused it or cannot be reached; `code` and `detail` say why.
        """
        return self._ask(photograph, query_of(**options), threading.Event())

    def caption_many(
        self,
        photographs: Iterable[Photograph],
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[RequestOptions],
    ) -> list[Outcome]:
        """Return for each photograph, in their order, its answer or the error it met.

        `concurrency` requests are under way at a time; `progress` shows how far they are.

        Raises:
            OptionError: `photographs` is a single one.
            ServiceError: nothing has been captioned yet, and the next photograph would fail as
                this one did: there is no service, it wants a key, an option is not valid.
        """
        waiting = listed(photographs)
        found: list[Outcome] = []
        with Progress(len(waiting), "captioning", unit="photographs", enabled=progress) as shown:
            for outcome in self.caption_each(waiting, concurrency=concurrency, **options):
                found.append(outcome)
                shown.advance()
        return found

    def caption_each(
        self,
        photographs: Sequence[Photograph],
        *,
        concurrency: int = 8,
        **options: Unpack[RequestOptions],
    ) -> Generator[Outcome, None, None]:
        """Yield what `caption_many` returns, each as soon as it and those before it are there."""
        if concurrency < 1:
            raise OptionError(f"concurrency is {concurrency}; give at least 1")
        query, waiting = query_of(**options), listed(photographs)
        stop = threading.Event()

        def outcome_of(photograph: Photograph) -> Outcome:
            try:
                return self._ask(photograph, query, stop)
            except CaptionerError as error:
                return error

        is_any_captioned = False
        with ThreadPoolExecutor(concurrency, "caption") as threads:
            try:
                for outcome in threads.map(outcome_of, waiting):
                    is_any_captioned |= isinstance(outcome, CaptionResponse)
                    if not is_any_captioned and concerns_all(outcome):
                        raise outcome
                    yield outcome
            finally:
                stop.set()
                threads.shutdown(cancel_futures=True)

    def _ask(
        self, photograph: Photograph, query: dict[str, str], stop: threading.Event
    ) -> CaptionResponse:
        request, data = CaptionRequest(photograph, self._patience), read(photograph)
        while True:
            try:
                outcome = request.after(self._http.post("caption", params=query, content=data))
            except self._httpx.RequestError as error:
                outcome = request.after_loss(error)
            if isinstance(outcome, CaptionResponse):
                return outcome
            if stop.wait(outcome):
                raise ServiceError(f"{request.name}: no longer wanted", code="cancelled")

    def close(self) -> None:
        """Close the connections; the client cannot be used after that."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncCaptionClient(ServiceClient):
    """The client for one event loop; made as `ServiceClient` says."""

    _kind = "Async"

    async def caption(
        self, photograph: Photograph, **options: Unpack[RequestOptions]
    ) -> CaptionResponse:
        """Return the captions of a photograph, as `CaptionClient.caption` does."""
        return await self._ask(photograph, query_of(**options))

    async def caption_many(
        self,
        photographs: Iterable[Photograph],
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[RequestOptions],
    ) -> list[Outcome]:
        """Return each photograph's answer or error, as `CaptionClient.caption_many` does."""
        if concurrency < 1:
            raise OptionError(f"concurrency is {concurrency}; give at least 1")
        query = query_of(**options)
        waiting = listed(photographs)
        found: dict[int, Outcome] = {}
        places = iter(range(len(waiting)))
        shown = Progress(len(waiting), "captioning", unit="photographs", enabled=progress)
        is_any_captioned = False

        async def work() -> None:
            nonlocal is_any_captioned
            for place in places:
                try:
                    outcome: Outcome = await self._ask(waiting[place], query)
                except CaptionerError as error:
                    outcome = error
                found[place] = outcome
                is_any_captioned |= isinstance(outcome, CaptionResponse)
                if not is_any_captioned and concerns_all(outcome):
                    raise outcome
                shown.advance()

        with shown:
            workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(waiting)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [found[place] for place in range(len(waiting))]

    async def _ask(self, photograph: Photograph, query: dict[str, str]) -> CaptionResponse:
        request = CaptionRequest(photograph, self._patience)
        data = await asyncio.to_thread(read, photograph)
        while True:
            try:
                response = await self._http.post("caption", params=query, content=data)
                outcome = request.after(response)
            except self._httpx.RequestError as error:
                outcome = request.after_loss(error)
            if isinstance(outcome, CaptionResponse):
                return outcome
            await asyncio.sleep(outcome)

    async def close(self) -> None:
        """Close the connections; the client cannot be used after that."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
