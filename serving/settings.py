"""Settings of the service: each with its flag, variable, default, unit and limits.

`--request-timeout-seconds` is `CAPTIONER_REQUEST_TIMEOUT_SECONDS`; a flag overrides a variable. All
values are checked before anything starts, and every bad one is named.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from captioner.checkpoint_folders import shipped_model
from captioner.cores import available_cores
from captioner.engines import ENGINES
from captioner.options import Options, between, option, variable
from captioner.search_config import MAX_LENGTH
from serving.api_keys import KeyHash, hash_key, hashes_in_file
from serving.origins import normal_origin

PREFIX = "CAPTIONER_"
NOT_OURS = frozenset({"CAPTIONER_SHARED"})  # read by the tests of this project
MIB = 1024 * 1024
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d+)?")
_ZERO = re.compile(r"(?<!\d)0+(?!\d)")
_LONGEST_RATE_SECONDS = 366 * 86_400


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """How one service runs. Fields that hold keys hold only their hashes."""

    is_named_by_flags = False

    checkpoint: Path | None = option(
        None,
        "exported folder, or that of a checkpoint or run (the model that comes with captioner)",
    )
    host: str = option("127.0.0.1", "address to listen on", metavar="ADDRESS")
    port: int = option(8000, "port to listen on, 0 takes a free one", within=between(0, 65_535))
    workers: int = option(1, "serving processes", within=between(1, 256))
    device: str = option("cpu", "where the model runs: auto, cpu, cuda, cuda:1 …", metavar="DEVICE")
    engine: str | None = option(
        None,
        "what runs the model (onnxruntime for an exported folder, torch for a checkpoint)",
        metavar="NAME",
    )
    threads: int | None = option(
        None, "threads of the model in each worker (cores / workers)", within=between(1, 1024)
    )
    lanes: int | None = option(
        None,
        "batches that each worker captions side by side, which share its threads (as many as "
        "threads by onnxruntime, else 1)",
        within=between(1, 64),
    )
    model_nice: int = option(
        10,
        "how much nicer the model's threads are than the rest, on Linux; 0 beside other programs "
        "that take all cores",
        within=between(0, 19),
    )
    decode_workers: int | None = option(
        None,
        "decoding processes of each worker (cores / workers, at most 4)",
        within=between(1, 64),
    )

    api_keys: tuple[KeyHash, ...] = option(
        (),
        "keys that clients must send, or sha256:HEX of keys, between commas (no key is needed)",
        parse=hash_key,
        is_secret=True,
    )
    api_keys_file: Path | None = option(None, "file with one key, or sha256:HEX, on each line")
    admin_keys: tuple[KeyHash, ...] = option(
        (), "keys that may reload the model (the API keys may)", parse=hash_key, is_secret=True
    )
    no_auth: bool = option(False, "allow a public address without keys")
    rate_limit: str | None = option(
        None, "requests per key or address, such as 60/minute (no limit)", metavar="RATE"
    )
    cors_origins: tuple[str, ...] = option(
        (), "origins whose pages may call the service, between commas (none)"
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        "addresses or networks whose X-Forwarded-For is trusted, between commas; * for all (none)",
    )

    body_limit_bytes: int = option(
        10 * MIB, "largest body of a request", within=between(1024, 1024 * MIB)
    )
    header_limit_bytes: int = option(
        16_384, "largest header of a request", within=between(1024, MIB)
    )
    receive_timeout_seconds: float = option(
        10.0, "time for a request's header, and again for its body", within=between(0.1, 600)
    )
    keep_alive_seconds: float = option(
        5.0, "time that an idle connection stays open", within=between(0.1, 600)
    )
    connection_limit: int = option(
        1000, "open connections of each worker", within=between(4, 100_000)
    )
    request_timeout_seconds: float = option(
        30.0, "time for a whole request; X-Request-Timeout may shorten it", within=between(0.1, 600)
    )
    drain_seconds: float = option(
        25.0, "time for accepted requests to finish after SIGTERM", within=between(0, 600)
    )

    max_batch: int = option(8, "most images of one batch", within=between(1, 256))
    batch_window_ms: float | None = option(
        None,
        "longest wait for more images while the model is busy (5 on a CPU, 2 on a GPU)",
        within=between(0, 1000),
    )
    queue_size: int = option(
        64, "most images of accepted requests of each worker", within=between(1, 10_000)
    )
    longest_caption: int = option(
        50, "largest max_length that a request may ask for", within=between(1, MAX_LENGTH)
    )

    pixel_limit: int = option(50_000_000, "most pixels of an image", within=between(1, 500_000_000))
    side_limit: int = option(
        20_000, "longest side of an image in pixels", within=between(1, 65_535)
    )
    scan_limit: int = option(64, "most scans of a progressive JPEG", within=between(1, 10_000))
    scan_pixel_limit: int = option(
        600_000_000, "most scans times pixels of a progressive JPEG", within=between(1, 10**11)
    )
    text_limit_bytes: int = option(
        MIB, "most bytes of text in an image", within=between(0, 1024 * MIB)
    )
    avif: bool = option(False, "accept AVIF images too")
    decode_timeout_seconds: float = option(
        5.0, "time to decode an image; then its process is killed", within=between(0.1, 600)
    )
    decode_memory_bytes: int = option(
        1024 * MIB, "address space a decoding process may add", within=between(64 * MIB, 1 << 40)
    )

    log_level: str = option(
        "info", "least severe line of the log", choices=("debug", "info", "warning", "error")
    )
    tracing_endpoint: str | None = option(
        None, "OTLP/HTTP address that traces are sent to (no tracing)", metavar="URL"
    )

    def contradictions(self) -> Iterable[str]:
        try:
            has_keys = self.has_keys
        except (OSError, ValueError) as problem:
            yield f"api_keys_file {str(self.api_keys_file)!r} cannot be used: {problem}"
            has_keys = not self.no_auth  # it would have had
        if not is_loopback(self.host) and not (has_keys or self.no_auth):
            yield (
                f"host is {self.host!r}, which others can reach, and there are no keys; set "
                "CAPTIONER_API_KEYS, or say --no-auth if everybody may use the service"
            )
        if self.engine is not None and self.engine not in ENGINES:
            yield f"engine is {self.engine!r}; choose one of {', '.join(ENGINES)}"
        if not _DEVICE.fullmatch(self.device):
            yield f"device is {self.device!r}; give auto, cpu, cuda or cuda:N"
        if has_keys and self.no_auth:
            yield "no_auth is set and so are keys; drop one of them"
        if self.rate_limit is not None and not _is_rate(self.rate_limit):
            yield f"rate_limit is {self.rate_limit!r}; give requests per time, such as 60/minute"
        if "*" in self.cors_origins and len(self.cors_origins) > 1:
            yield "cors_origins holds '*' and others; give '*' alone, or leave it out"
        for origin in self.cors_origins:
            try:
                normal_origin(origin)
            except ValueError as remedy:
                yield f"cors_origins holds {origin!r}; {remedy}"
        if "*" in self.trusted_proxies and len(self.trusted_proxies) > 1:
            yield "trusted_proxies holds '*' and others; give '*' alone, or leave it out"
        for proxy in self.trusted_proxies:
            if proxy != "*" and (better := _proxy_remedy(proxy)):
                yield f"trusted_proxies holds {proxy!r}; {better}"
        if self.tracing_endpoint is not None and not _is_address(self.tracing_endpoint):
            yield (
                f"tracing_endpoint is {self.tracing_endpoint!r}; it looks like "
                "http://collector:4318/v1/traces"
            )
        elif self.tracing_endpoint is not None and not _has_tracing():
            yield (
                f"tracing_endpoint is {self.tracing_endpoint!r} and OpenTelemetry is not "
                "installed; install captioner[tracing], or drop the setting"
            )
        if self.checkpoint is not None and not self.checkpoint.is_dir():
            yield (
                f"checkpoint is {str(self.checkpoint)!r}, where there is no folder; give one such "
                "as runs/NAME/best"
            )

    def checkpoint_folder(self) -> Path:
        """Return the folder of the model; raise as `shipped_model`."""
        return self.checkpoint or shipped_model()

    @cached_property
    def keys(self) -> tuple[KeyHash, ...]:
        """The keys that clients may send, those in the file included."""
        path = self.api_keys_file
        return (*self.api_keys, *(() if path is None else hashes_in_file(path)))

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.keys)

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may call the service, as browsers send them."""
        return tuple(map(normal_origin, self.cors_origins))

    @property
    def threads_per_worker(self) -> int:
        return self.threads or max(1, available_cores() // self.workers)

    def lanes_for(self, engine: str) -> int:
        """Return how many batches a worker captions side by side with this engine."""
        most = self.threads_per_worker if engine == "onnxruntime" else 1
        return self.lanes or most

    @property
    def decoders_per_worker(self) -> int:
        return self.decode_workers or min(4, max(1, available_cores() // self.workers))

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        prefix: str = PREFIX,
        given: Any = None,
        *,
        given_by_flags: bool = True,
        **more: Any,
    ) -> Self:
        """Return the settings of the variables in `environ`; what is `given` counts more."""
        values = {**(given or {}), **more}
        return super().from_environment(environ, prefix, values, given_by_flags=given_by_flags)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names that look like a setting and are none, probably misspelt."""
    known = {variable(PREFIX, one.name) for one in fields(Settings)} | NOT_OURS
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy_remedy(text: str) -> str:
    """Return what to give instead of the address or network of a proxy; empty where it is one."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return "give an address such as 10.0.0.5, or a network by its first, such as 10.0.0.0/8"
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        return "give IPv4 as IPv4, such as 10.0.0.5 or 10.0.0.0/8"  # as clients have it
    return ""


def _has_tracing() -> bool:
    try:
        return find_spec("opentelemetry.instrumentation.asgi") is not None
    except ModuleNotFoundError:
        return False


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_rate(text: str) -> bool:
    from limits import parse_many

    if _ZERO.search(text):  # the library takes a multiple of zero for one
        return False
    try:
        rates = parse_many(text)
    except ValueError:
        return False
    return all(rate.get_expiry() <= _LONGEST_RATE_SECONDS for rate in rates)
