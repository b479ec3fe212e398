"""Every setting of the service: its flag, its variable, its default, its unit and its limits.

`--request-timeout-seconds` is `CAPTIONER_REQUEST_TIMEOUT_SECONDS`; a flag counts more than a
variable. No other module of the service reads the environment. All values are checked before
anything starts, and every bad one is named.
"""

# ruff: noqa: RUF009 - `_setting` is `dataclasses.field` with our metadata

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from captioner.errors import OptionError
from serving.api_keys import KeyHash, hash_key, hashes_in_file

PREFIX = "CAPTIONER_"
NOT_OURS = frozenset({"CAPTIONER_SHARED"})  # read by the tests of this project
MIB = 1024 * 1024
CONTROL_GROUP = Path("/sys/fs/cgroup")
LOG_LEVELS = ("debug", "info", "warning", "error")
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class SettingsError(OptionError):
    """One or more settings are wrong; `problems` has a line for each."""


def _setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"help": text, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one service runs. Fields that hold keys hold only their hashes."""

    checkpoint: Path | None = _setting(
        None, "folder of a checkpoint or of a run (the newest runs/*/best)"
    )
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on, 0 takes a free one", low=0, high=65_535)
    workers: int = _setting(1, "serving processes", low=1, high=256)
    device: str = _setting("cpu", "where the model runs: auto, cpu, cuda, cuda:1 …")
    threads: int | None = _setting(
        None, "threads of the model in each worker (cores / workers)", low=1, high=1024
    )
    decode_workers: int | None = _setting(
        None, "decoding processes of each worker (cores / workers, at most 4)", low=1, high=64
    )

    api_keys: tuple[KeyHash, ...] = _setting(
        (), "keys that clients must send, or sha256:HEX of keys, between commas (no key is needed)"
    )
    api_keys_file: Path | None = _setting(None, "file with one key, or sha256:HEX, on each line")
    admin_keys: tuple[KeyHash, ...] = _setting(
        (), "keys that may reload the model (the API keys may)"
    )
    no_auth: bool = _setting(False, "serve a public address without keys")
    rate_limit: str | None = _setting(
        None, "requests per key or address, such as 60/minute (no limit)"
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "origins whose pages may call the service, between commas (none)"
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (), "addresses whose X-Forwarded-For is believed, between commas (none)"
    )

    body_limit_bytes: int = _setting(
        10 * MIB, "greatest body of a request", low=1024, high=1024 * MIB
    )
    header_limit_bytes: int = _setting(16_384, "greatest header of a request", low=1024, high=MIB)
    receive_timeout_seconds: float = _setting(
        10.0, "time for a request's header, and again for its body", low=0.1, high=600
    )
    keep_alive_seconds: float = _setting(5.0, "time an idle connection is kept", low=0.1, high=600)
    connection_limit: int = _setting(1000, "open connections of each worker", low=4, high=100_000)
    request_timeout_seconds: float = _setting(
        30.0, "time for a whole request; X-Request-Timeout may shorten it", low=0.1, high=600
    )
    drain_seconds: float = _setting(
        25.0, "time that accepted requests get to finish after SIGTERM", low=0, high=600
    )

    max_batch: int = _setting(8, "most images of one batch", low=1, high=256)
    batch_window_ms: float | None = _setting(
        None,
        "longest wait for company while the model is busy (5 on a CPU, 2 on a GPU)",
        low=0,
        high=1000,
    )
    queue_size: int = _setting(64, "most accepted requests of each worker", low=1, high=10_000)
    longest_caption: int = _setting(50, "greatest max_length a request may ask", low=1, high=200)

    pixel_limit: int = _setting(50_000_000, "most pixels of an image", low=1, high=500_000_000)
    side_limit: int = _setting(20_000, "longest side of an image in pixels", low=1, high=65_535)
    scan_limit: int = _setting(64, "most scans of a progressive JPEG", low=1, high=10_000)
    scan_pixel_limit: int = _setting(
        600_000_000, "most scans times pixels of a progressive JPEG", low=1, high=10**11
    )
    text_limit_bytes: int = _setting(
        MIB, "most bytes of text chunks of an image", low=0, high=1024 * MIB
    )
    avif: bool = _setting(False, "accept AVIF images too")
    decode_timeout_seconds: float = _setting(
        5.0, "time to decode an image; then its process is killed", low=0.1, high=600
    )
    decode_memory_bytes: int = _setting(
        1024 * MIB, "address space a decoding process may add", low=64 * MIB, high=1 << 40
    )

    log_level: str = _setting("info", "least severe line of the log", choices=LOG_LEVELS)
    tracing_endpoint: str | None = _setting(
        None, "OTLP/HTTP address that traces are sent to (no tracing)"
    )

    def __post_init__(self) -> None:
        problems = [*_problems_of_fields(self), *self._contradictions()]
        if problems:
            raise SettingsError(*problems)

    def _contradictions(self) -> list[str]:
        problems = []
        if not is_loopback(self.host) and not (self.has_keys or self.no_auth):
            problems.append(
                f"host is {self.host!r}, which others can reach, and there are no keys; set "
                "CAPTIONER_API_KEYS, or say --no-auth if everybody may use the service"
            )
        if self.has_keys and self.no_auth:
            problems.append("no_auth is set and so are keys; drop one of them")
        if self.rate_limit is not None and not _is_rate(self.rate_limit):
            problems.append(
                f"rate_limit is {self.rate_limit!r}; give requests per time, such as 60/minute"
            )
        if "*" in self.cors_origins and len(self.cors_origins) > 1:
            problems.append("cors_origins holds '*' and others; give '*' alone, or leave it out")
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                problems.append(
                    f"cors_origins holds {origin!r}; an origin looks like https://example.org"
                )
        if self.tracing_endpoint is not None and not self.tracing_endpoint.startswith("http"):
            problems.append(
                f"tracing_endpoint is {self.tracing_endpoint!r}; it looks like "
                "http://collector:4318/v1/traces"
            )
        elif self.tracing_endpoint is not None and not _has_tracing():
            problems.append(
                f"tracing_endpoint is {self.tracing_endpoint!r} and OpenTelemetry is not "
                "installed; install captioner[tracing], or drop the setting"
            )
        if self.checkpoint is not None and not self.checkpoint.is_dir():
            problems.append(
                f"checkpoint is {str(self.checkpoint)!r}, where there is no folder; give one such "
                "as runs/NAME/best"
            )
        return problems

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_keys)

    @property
    def threads_per_worker(self) -> int:
        return self.threads or max(1, available_cores() // self.workers)

    @property
    def decoders_per_worker(self) -> int:
        return self.decode_workers or min(4, max(1, available_cores() // self.workers))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **given: Any) -> "Settings":
        """Return the settings of the variables in `environ`; what is `given` counts more.

        Values that are `given` may be text, as flags are.

        Raises:
            SettingsError: some are wrong; every one is named.
        """
        values: dict[str, Any] = {}
        problems = []
        for one in fields(cls):
            text = environ.get(PREFIX + one.name.upper())
            value = given[one.name] if given.get(one.name) is not None else text
            if value is None or value == "":
                continue
            label = PREFIX + one.name.upper() if value is text else one.name
            try:
                values[one.name] = _read(one.type, value) if isinstance(value, str) else value
            except ValueError as problem:
                problems.append(f"{label} is {_shown(one.name, value)}; {problem}")
        if (path := values.get("api_keys_file")) is not None:
            try:
                values["api_keys"] = (*values.get("api_keys", ()), *hashes_in_file(path))
            except (OSError, ValueError) as problem:
                problems.append(f"api_keys_file {str(path)!r} cannot be used: {problem}")
        if not problems:
            return cls(**values)
        try:
            cls(**values)
        except SettingsError as further:
            problems += further.problems
        raise SettingsError(*problems)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names that look like a setting and are none, probably misspelt."""
    known = {PREFIX + one.name.upper() for one in fields(Settings)} | NOT_OURS
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def default_text(name: str) -> str:
    """Return how the default of a setting is shown in the help and in the documents."""
    one = next(one for one in fields(Settings) if one.name == name)
    assert one.default is not MISSING
    if one.default is None or one.default == ():
        return ""
    return str(one.default).lower() if isinstance(one.default, bool) else str(one.default)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = _cpu_quota()
        return max(1, min(cores or 1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups here, or no quota: "max"
        return cores or 1


def _cpu_quota() -> tuple[str, str]:
    """Return the microseconds of computing in a period, and the period, as the kernel writes them.

    Without a quota the first is "max".
    """
    if (CONTROL_GROUP / "cpu.max").exists():
        quota, period = (CONTROL_GROUP / "cpu.max").read_text(encoding="ascii").split()
    else:
        quota = (CONTROL_GROUP / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
        period = (CONTROL_GROUP / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    return ("max" if quota == "-1" else quota), period


def _problems_of_fields(settings: Settings) -> list[str]:
    problems = []
    for one in fields(Settings):
        value = getattr(settings, one.name)
        low, high, choices = (one.metadata[key] for key in ("low", "high", "choices"))
        if low is not None and value is not None and not low <= value <= high:
            problems.append(f"{one.name} is {value}; give a number from {low:,} to {high:,}")
        if choices and value not in choices:
            problems.append(f"{one.name} is {value!r}; choose one of {', '.join(choices)}")
    return problems


def _read(kind: Any, text: str) -> Any:
    """Return the value that `text` stands for in a field of type `kind`; raise ValueError."""
    kinds = set(get_args(kind)) - {type(None)} if type(None) in get_args(kind) else {kind}
    return _READERS[kinds.pop()](text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("give a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("give a number") from None


def _flag(text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise ValueError("give true or false")
    return text.lower() in YES


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _keys(text: str) -> tuple[KeyHash, ...]:
    return tuple(hash_key(word) for word in _words(text))


_READERS: dict[Any, Callable[[str], Any]] = {
    int: _whole,
    float: _number,
    bool: _flag,
    str: str,
    Path: Path,
    tuple[str, ...]: _words,
    tuple[KeyHash, ...]: _keys,
}


def _shown(name: str, value: Any) -> str:
    return "not usable" if "keys" in name else repr(value)


def _has_tracing() -> bool:
    try:
        return find_spec("opentelemetry.instrumentation.asgi") is not None
    except ModuleNotFoundError:
        return False


def _is_rate(text: str) -> bool:
    from limits import parse_many

    try:
        return bool(parse_many(text))
    except ValueError:
        return False
