"""Retry logic shared by both clients, without the sending of requests.

Both clients make their requests from a `CaptionRequest` and hand it what came back; it returns
the captions, or the seconds to wait before the same request is sent again, or raises. A photograph
travels as the request's body, so that nothing has to be encoded; sending it twice does no harm.
"""

import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard, Unpack
from urllib.parse import urlsplit

from captioner.client.responses import CaptionResponse
from captioner.errors import CaptionerError, ImageError, OptionError, ServiceError
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, Options, option
from captioner.search_config import ControlOptions

if TYPE_CHECKING:
    import httpx

Photograph = str | Path | bytes
Outcome = CaptionResponse | CaptionerError  # of one photograph

FIRST_WAIT_SECONDS = 0.5  # where the service does not say how long; twice as long each further time
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 3.0  # below what servers keep an unused connection open for, uvicorn 5 s
_TRY_LATER = (429, 503)


class RequestOptions(ControlOptions, total=False):
    """The options of a request: those of `SearchConfig` that services take, and attention."""

    beam_size: int | None
    num_captions: int  # 1 where it is not given
    max_length: int | None  # words
    attention: bool  # weights for every word


@dataclass(frozen=True, kw_only=True)
class Patience(Options):
    """How long a client goes on with one photograph."""

    is_named_by_flags = False

    attempts: int = option(
        6, "requests in all, while the service is busy or not ready", within=AT_LEAST_ONE
    )
    longest_wait_seconds: float = option(
        30.0, "a service that asks for more is not waited for", within=ABOVE_ZERO
    )
    timeout_seconds: float = option(60.0, "time for an answer", within=ABOVE_ZERO)


class ServiceClient:
    """A connection to the caption service at an address such as http://localhost:8000.

    While the service is busy (429) or not ready (503) a photograph is sent again when the service
    says so, within the bounds of `patience`.

    Raises:
        OptionError: the address or the key cannot be one, or a variable of the environment names
            a proxy or certificates that cannot be used.
    """

    _kind: ClassVar[str]  # of client that httpx has: "" or "Async"

    def __init__(
        self, url: str, api_key: str | None = None, *, patience: Patience | None = None
    ) -> None:
        import httpx

        from captioner.proxies import transport_options, without_password

        self._patience = patience or Patience()
        self._httpx: Any = httpx
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise OptionError(
                f"the service's address is {without_password(str(url))!r}; give one like "
                "http://localhost:8000"
            )
        headers = {
            "Accept": "application/json, application/problem+json",
            "Content-Type": "application/octet-stream",
        }
        if api_key:
            if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
                raise OptionError(
                    "the API key holds a character that no key has; check what was given"
                )
            headers["Authorization"] = f"Bearer {api_key}"
        limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS)
        transport = getattr(httpx, f"{self._kind}HTTPTransport")
        self._http: Any = getattr(httpx, f"{self._kind}Client")(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(self._patience.timeout_seconds, connect=CONNECT_SECONDS),
            transport=transport(limits=limits, **transport_options(url)),
            trust_env=False,  # the transport has followed the environment
        )


def query_of(
    *,
    beam_size: int | None = None,
    num_captions: int = 1,
    max_length: int | None = None,
    attention: bool = False,
    **control: Unpack[ControlOptions],
) -> dict[str, str]:
    """Return the options as a query; what is None is left to the service."""
    options: dict[str, Any] = {
        "beam_size": beam_size,
        "num_captions": num_captions,
        "max_length": max_length,
        **control,
    }
    query = {name: _as_text(value) for name, value in options.items() if value is not None}
    return {**query, "attention": "true"} if attention else query


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


def read(photograph: Photograph) -> bytes:
    """Return the bytes of a photograph.

    Raises:
        ImageError: the file cannot be read.
    """
    if not isinstance(photograph, str | Path):
        return bytes(photograph)
    try:
        return Path(os.path.expanduser(photograph)).read_bytes()
    except OSError as error:
        raise ImageError(f"{photograph}: {error.strerror or error}; check the path") from None


def listed(photographs: Iterable[Photograph]) -> list[Photograph]:
    """Return many photographs as a list.

    Raises:
        OptionError: it is a single one, whose letters or bytes would be taken for many.
    """
    if isinstance(photographs, str | Path | bytes):
        raise OptionError(
            f"photographs is {photographs!r:.80}; give a list, [photograph] for a single one"
        )
    return list(photographs)


class CaptionRequest:
    """The request for the captions of one photograph, sent as often as it takes."""

    def __init__(self, photograph: Photograph, patience: Patience) -> None:
        self.name = str(photograph) if isinstance(photograph, str | Path) else "the image"
        self._patience = patience
        self._attempt = 0
        self._is_lost = False

    def after(self, response: "httpx.Response") -> CaptionResponse | float:
        """Return the captions, or the seconds after which to ask again.

        Raises:
            ServiceError: the service refused for good, or has been asked often enough.
        """
        self._attempt += 1
        if response.status_code == 200:
            try:
                return CaptionResponse.from_json(response.json())
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self._unexpected(response) from None
        wait = self._wanted_wait(response.headers.get("retry-after"))
        problem = self._problem(response, wait)
        if (
            response.status_code not in _TRY_LATER
            or self._attempt >= self._patience.attempts
            or wait > self._patience.longest_wait_seconds
        ):
            raise problem
        return wait

    def after_loss(self, error: "httpx.RequestError") -> float:
        """Return 0.0 where a connection broke for the first time: the next one is a new one.

        Raises:
            ServiceError: there is no service, it did not answer in time, or broke off again.
        """
        import httpx

        from captioner.proxies import failure

        broken = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
        if isinstance(error, broken) and not self._is_lost:
            self._is_lost = True
            return 0.0
        detail = failure(error, str(error.request.url))
        if isinstance(error, httpx.TimeoutException):
            detail = f"no answer in {self._patience.timeout_seconds:g} s"
            if isinstance(error, httpx.ConnectTimeout):
                detail = f"no connection in {CONNECT_SECONDS:g} s"
        raise ServiceError(
            f"{self.name}: {_address(error.request)} cannot be reached: {detail}; "
            "check the address and that the service runs",
            code="unreachable",
            detail=detail,
        ) from None

    def _wanted_wait(self, retry_after: str | None) -> float:
        """Return the seconds of a `Retry-After`, which is a number or a date (RFC 9110, 10.2.3)."""
        text = (retry_after or "").strip()
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            # Spread out, so that clients turned away together do not come back together.
            return FIRST_WAIT_SECONDS * 2 ** (self._attempt - 1) * random.uniform(0.75, 1.25)

    def _problem(self, response: "httpx.Response", wait: float) -> ServiceError:
        """Return the error that RFC 9457 problem details are."""
        try:
            told = response.json()
            code, title = _line(told["code"]), _line(told["title"])
        except (ValueError, TypeError, KeyError):
            return self._unexpected(response)
        detail = _line(told.get("detail") or "")
        message = f"{self.name}: {title[:1].lower()}{title[1:]}"
        return ServiceError(
            f"{message}: {detail} ({code})" if detail else f"{message} ({code})",
            code=code,
            detail=detail,
            status=response.status_code,
            request_id=str(told.get("request_id") or ""),
            retry_after_seconds=wait if response.status_code in _TRY_LATER else None,
        )

    def _unexpected(self, response: "httpx.Response") -> ServiceError:
        from captioner.proxies import proxy_for

        address = _address(response.request)
        proxy = proxy_for(address)
        through = f", through {proxy}" if proxy else ""
        return ServiceError(
            f"{self.name}: {address} answered with status {response.status_code}{through}, but not "
            "as a caption service; check the address",
            code="unexpected_answer",
            status=response.status_code,
        )


def concerns_all(outcome: Outcome) -> TypeGuard[ServiceError]:
    """Whether an outcome is an error that the next photograph would meet too."""
    return isinstance(outcome, ServiceError) and outcome.concerns_every_photograph


def _address(request: "httpx.Request") -> str:
    """Return where a request went, without its options and without a password."""
    return str(request.url.copy_with(userinfo=b"", query=None))


def _line(text: object) -> str:
    """Return what a service says as one line that a terminal can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
