"""Real decode processes give the library's pixels, and cost one request when they die."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from captioner.encoder.preprocessing import Preprocessing
from captioner.sandbox.decode_pool import DecodedImage, DecodePool
from captioner.sandbox.decode_process import DecodeProcess
from captioner.sandbox.errors import DeadlineExceeded, ImageRejected, NotReady
from captioner.sandbox.limits import ImageLimits

LIMITS = ImageLimits(formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"))
PREPROCESSING = Preprocessing(image_size=48)
PATIENCE = 120.0  # seconds; the machine may have better things to do
ROOT = Path(__file__).resolve().parents[3]


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours with an edge, so that turning and cutting show."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    values = np.stack([across, down, np.where(across > 2 * down, 255.0, 0.0)], axis=2)
    return Image.fromarray(values.astype(np.uint8))


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def run(test: Callable[[DecodePool], Awaitable[Any]], **options: Any) -> Any:
    """Return what a test makes of a started pool, which is closed afterwards without a trace."""

    async def inside() -> Any:
        async with started(**options) as pool:
            return await test(pool)

    before, children = set(os.listdir("/proc/self/fd")), psutil.Process().children()
    result = asyncio.run(inside())
    assert psutil.Process().children() == children  # other tests' fixtures, if any
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    return result


@asynccontextmanager
async def started(**options: Any):
    pool = DecodePool(**{"workers": 1, "limits": LIMITS, "timeout_seconds": 60.0} | options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def decode(
    pool: DecodePool, data: bytes, preprocessing: Preprocessing = PREPROCESSING
) -> DecodedImage:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    return await pool.decode(data, preprocessing=preprocessing, deadline=deadline)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def oddities() -> dict[str, bytes]:
    """Return uploads of every kind that people have."""
    image = picture(90, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.asarray(image)[..., 0]))
    frames = {"save_all": True, "append_images": [picture(90, 60).rotate(180)]}
    large = picture(1801, 1203)
    cases = {
        "JPEG": saved(image, "JPEG"),
        "progressive": saved(image, "JPEG", progressive=True),
        "grey JPEG": saved(image.convert("L"), "JPEG"),
        "CMYK": saved(image.convert("CMYK"), "JPEG"),
        "turned": saved(image, "JPEG", exif=exif),
        "turned PNG": saved(image, "PNG", exif=exif),
        "PNG": saved(image, "PNG"),
        "16 bits": saved(grey16, "PNG"),
        "alpha": saved(clear, "PNG"),
        "palette": saved(image.quantize(16), "PNG"),
        "bits": saved(image.convert("1"), "PNG"),
        "WebP": saved(clear, "WEBP"),
        "GIF": saved(image, "GIF", **frames),
        "APNG": saved(image, "PNG", **frames),
        "BMP": saved(image, "BMP"),
        "large": saved(large, "JPEG", exif=exif),
        "large CMYK": saved(large.convert("CMYK"), "JPEG"),
        "several pictures": saved(large, "MPO", save_all=True, append_images=[image]),
    }
    with suppress(KeyError, OSError):  # a Pillow without AVIF
        cases["AVIF"] = saved(image, "AVIF", speed=10)
    return cases


def test_it_works_on_the_loop_of_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    data = saved(picture(90, 60), "JPEG")

    async def decode() -> DecodedImage:
        async with started(workers=1) as pool:
            deadline = asyncio.get_running_loop().time() + PATIENCE
            return await pool.decode(data, preprocessing=PREPROCESSING, deadline=deadline)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert np.array_equal(runner.run(decode()).pixels, PREPROCESSING.read(data))


def test_pixels_are_bit_for_bit_those_of_the_library():
    modes = [Preprocessing(image_size=48, image_mode=mode) for mode in ("crop", "squash")]
    modes.append(Preprocessing(image_size=64, image_mode="whole"))

    async def test(pool: DecodePool) -> None:
        for name, data in oddities().items():
            for preprocessing in modes:
                decoded = await decode(pool, data, preprocessing)
                assert np.array_equal(decoded.pixels, preprocessing.read(data)), name
                assert decoded.pixels.dtype == np.uint8
                size = (decoded.header.width, decoded.header.height)
                upright = (60, 90) if name.startswith("turned") else (90, 60)
                if name.startswith(("large", "several")):
                    upright = (1203, 1801) if name == "large" else (1801, 1203)
                assert size == upright, name
                assert 0 <= decoded.seconds < PATIENCE

    run(test)


def test_a_process_holds_neither_torch_nor_the_secrets_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("CAPTIONER_API_KEYS", "secret")

    async def test(pool: DecodePool) -> None:
        await decode(pool, saved(picture(9, 9), "PNG"))
        process = psutil.Process(pool.process_ids()[0])
        assert process.memory_info().rss < 120 << 20
        assert not any("torch" in one.path for one in process.memory_maps())
        assert process.num_threads() == 1
        assert "CAPTIONER_API_KEYS" not in process.environ()
        assert os.getsid(process.pid) != os.getsid(0)
        limits = {name: process.rlimit(getattr(psutil, name)) for name in
                  ("RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_CORE")}  # fmt: skip
        assert limits["RLIMIT_AS"][1] <= process.memory_info().vms + (1 << 30) + (64 << 20)
        assert (limits["RLIMIT_FSIZE"][1], limits["RLIMIT_CORE"][1]) == (0, 0)
        # Where memory runs out, the kernel ends this process rather than the service.
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"

    run(test)


def test_damaged_uploads_are_refused_in_our_words_and_cost_no_process():
    whole = saved(picture(64, 64), "JPEG")
    png = bytearray(saved(picture(64, 64), "PNG"))
    png[60:70] = b"\x1b[31mEVIL\n"

    async def test(pool: DecodePool) -> None:
        before = pool.process_ids()
        for data in (whole[: len(whole) // 2], bytes(png), b"\xff\xd8\xff" + bytes(99)):
            with pytest.raises(ImageRejected) as caught:
                await decode(pool, data)
            assert caught.value.code == "corrupt_image"
            assert "damaged or incomplete" in caught.value.detail
        with pytest.raises(ImageRejected) as caught:
            await decode(pool, b"%PDF")
        assert caught.value.code == "unsupported_format"
        assert pool.process_ids() == before

    run(test)


def test_memory_is_limited():
    data = saved(Image.new("RGB", (6000, 6000)), "PNG")

    async def test(pool: DecodePool) -> None:
        with pytest.raises(ImageRejected) as caught:
            await decode(pool, data)
        assert caught.value.code == "image_too_large"
        assert "memory" in caught.value.detail
        await decode(pool, saved(picture(9, 9), "PNG"))

    run(test, address_space_bytes=64 << 20)


SLOW = saved(Image.new("RGB", (6900, 7000)), "PNG")  # some tenths of a second


def test_what_takes_too_long_is_killed_and_replaced():
    killed = []

    async def test(pool: DecodePool) -> None:
        before = pool.process_ids()
        with pytest.raises(ImageRejected) as caught:
            await decode(pool, SLOW)
        assert caught.value.code == "corrupt_image"
        assert "limits of time" in caught.value.detail
        await until(pool.healthy)
        assert set(pool.process_ids()).isdisjoint(before)

    run(test, timeout_seconds=0.02, on_killed=lambda: killed.append(1))
    assert killed == [1]


@pytest.mark.parametrize("kind", [signal.SIGSEGV, signal.SIGABRT, signal.SIGXCPU])
def test_a_crash_costs_one_request(kind: signal.Signals):
    small = saved(picture(9, 9), "PNG")
    killed = []

    async def test(pool: DecodePool) -> None:
        (first,) = pool.process_ids()
        os.kill(first, signal.SIGSTOP)  # so that it surely is at this upload when it dies
        victim = asyncio.create_task(decode(pool, small))
        bystander = asyncio.create_task(decode(pool, small))
        await asyncio.sleep(0.05)
        os.kill(first, kind)
        os.kill(first, signal.SIGCONT)
        with pytest.raises(ImageRejected) as caught:
            await victim
        assert caught.value.code == "corrupt_image"
        assert (await bystander).header.width == 9
        assert first not in pool.process_ids()

    run(test, on_killed=lambda: killed.append(1))
    assert killed == [1]


def test_an_upload_whose_process_somebody_killed_tries_another_once():
    small = saved(picture(9, 9), "PNG")

    async def test(pool: DecodePool) -> None:
        upload = asyncio.create_task(decode(pool, small))
        await asyncio.sleep(0)
        for attempt in range(2):
            (process,) = pool.process_ids()
            os.kill(process, signal.SIGSTOP)
            os.kill(process, signal.SIGKILL)
            if attempt == 0:
                assert (await upload).header.width == 9
                upload = asyncio.create_task(decode(pool, small))
                await asyncio.sleep(0)
        await until(lambda: pool.process_ids() not in ([], [process]))
        assert (await upload).header.width == 9

    run(test)


def test_a_process_that_dies_idle_costs_nobody_anything():
    async def test(pool: DecodePool) -> None:
        before = pool.process_ids()
        for process in before:
            os.kill(process, signal.SIGKILL)
        await until(
            lambda: len(pool.process_ids()) == 2 and not set(before) & {*pool.process_ids()}
        )
        small = saved(picture(9, 9), "PNG")
        found = await asyncio.gather(*(decode(pool, small) for _ in range(8)))
        assert len(found) == 8
        assert pool.expected_wait_seconds() == 0.0

    run(test, workers=2)


def test_who_leaves_costs_nothing_and_mixes_nothing_up():
    """After many cancelled uploads every answer still belongs to its question."""
    uploads = {width: saved(picture(width, 30), "PNG") for width in range(20, 60)}

    async def test(pool: DecodePool) -> None:
        before, cancelled = pool.process_ids(), 0
        for _ in range(3):
            tasks = {w: asyncio.create_task(decode(pool, data)) for w, data in uploads.items()}
            await tasks[20]
            for width, task in tasks.items():
                cancelled += width % 4 > 0 and task.cancel()
            found = await asyncio.gather(*tasks.values(), return_exceptions=True)
            for width, one in zip(tasks, found, strict=True):
                if isinstance(one, asyncio.CancelledError):
                    assert width % 4
                else:
                    assert one.header.width == width
        assert cancelled > 10
        assert pool.expected_wait_seconds() == 0.0
        assert pool.process_ids() == before

    run(test, workers=2)


def test_a_deadline_ends_the_wait_but_not_the_process():
    async def test(pool: DecodePool) -> None:
        before, loop = pool.process_ids(), asyncio.get_running_loop()
        slow = asyncio.create_task(decode(pool, SLOW))
        await asyncio.sleep(0)
        for patience in (-1.0, 0.01):
            with pytest.raises(DeadlineExceeded):
                await pool.decode(
                    saved(picture(9, 9), "PNG"),
                    preprocessing=PREPROCESSING,
                    deadline=loop.time() + patience,
                )
        assert not slow.done()
        assert pool.expected_wait_seconds() > 0.0
        assert (await slow).header.width == 6900
        assert pool.process_ids() == before

    run(test)


def test_before_the_start_and_after_the_end_it_is_not_ready():
    async def test() -> None:
        pool = DecodePool(workers=1, limits=LIMITS)
        assert not pool.healthy()
        with pytest.raises(NotReady):
            await decode(pool, SLOW)
        await pool.start()
        assert pool.healthy()
        slow = [asyncio.create_task(decode(pool, SLOW)) for _ in range(3)]
        await asyncio.sleep(0.02)
        await pool.close()
        for task in slow:
            with pytest.raises(NotReady):
                await task
        assert not pool.healthy()

    children = psutil.Process().children()
    asyncio.run(test())
    assert psutil.Process().children() == children


def test_a_process_that_stands_still_is_killed_and_one_that_is_kept_waiting_is_not(
    monkeypatch: pytest.MonkeyPatch,
):
    """Whether others are busy does not decide about a picture; the clock does where it must."""
    small, killed = saved(picture(9, 9), "PNG"), []

    async def halted(pool: DecodePool, waits: bool, seconds: float) -> Any:
        (process,) = pool.process_ids()
        monkeypatch.setattr(DecodeProcess, "_is_kept_waiting", lambda _: waits)
        os.kill(process, signal.SIGSTOP)
        task = asyncio.create_task(decode(pool, small))
        await asyncio.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
        return await task

    async def test(pool: DecodePool) -> None:
        assert (await halted(pool, waits=True, seconds=1.0)).header.width == 9
        assert killed == []
        with pytest.raises(ImageRejected):
            await halted(pool, waits=True, seconds=3.0)
        assert killed == [1]
        await until(lambda: pool.healthy())
        monkeypatch.undo()
        (process,) = pool.process_ids()
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(ImageRejected):
            await decode(pool, small)
        assert killed == [1, 1]

    run(test, timeout_seconds=0.7, on_killed=lambda: killed.append(1))


def test_processes_die_with_their_parent():
    code = (
        "import asyncio, sys\n"
        "from captioner.sandbox.decode_pool import DecodePool\n"
        "from captioner.sandbox.limits import ImageLimits\n"
        "async def main():\n"
        "    pool = DecodePool(workers=2, limits=ImageLimits())\n"
        "    await pool.start()\n"
        "    print(*pool.process_ids(), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        processes = [psutil.Process(int(one)) for one in parent.stdout.readline().split()]
        assert len(processes) == 2
        parent.kill()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert alive == []


def test_a_scan_bomb_is_refused_long_before_it_could_be_decoded():
    data = saved(picture(1000, 1000), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 2000 + b"\xff\xd9"

    async def test(pool: DecodePool) -> float:
        began = time.monotonic()
        with pytest.raises(ImageRejected) as caught:
            await decode(pool, bomb)
        assert caught.value.code == "image_too_large"
        return time.monotonic() - began

    assert run(test) < 60.0
