"""The client for asyncio: the methods of `CaptionClient`, to be awaited."""

import asyncio
from collections.abc import Iterable
from typing import Self, Unpack

from captioner.client.responses import CaptionResponse
from captioner.client.retries import (
    CaptionRequest,
    Outcome,
    Photograph,
    RequestOptions,
    ServiceClient,
    concerns_all,
    query_of,
    read,
)
from captioner.errors import CaptionerError, OptionError
from captioner.progress import Progress


class AsyncCaptionClient(ServiceClient):
    """The client for one event loop; made as `ServiceClient` says."""

    _kind = "Async"

    async def caption(
        self, photograph: Photograph, **options: Unpack[RequestOptions]
    ) -> CaptionResponse:
        """Return the captions of a photograph, as `CaptionClient.caption` does."""
        query = query_of(**options)
        return await self._ask(photograph, query)

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
        waiting = list(photographs)
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
                response = await self._http.post(
                    request.path, params=query, content=data, headers=request.headers
                )
            except self._httpx.RequestError as error:
                outcome: CaptionResponse | float = request.after_loss(error)
            else:
                outcome = request.after(response)
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
