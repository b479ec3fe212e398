"""Data sets are captioned by Ray as by this machine's processes, whatever dies."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner.cli import main

# Ray warns of options of its own that nobody here sets.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PHOTOGRAPHS = 24


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for number in range(PHOTOGRAPHS):
        image = Image.linear_gradient("L").rotate(15 * number).resize((48 + number, 40))
        image.convert("RGB").save(folder / f"{number:02d}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


def run(album: Path, out: Path, *more: str) -> int:
    words = [str(album), "--out", str(out), "--shard-size", "3", "--workers", "2", *more]
    return main(["caption-dataset", *words])


def actors() -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if "MapWorker" in " ".join(one.info["cmdline"] or ())]


def test_rays_rows_are_those_of_this_machine_though_an_actor_is_killed(
    ray_cluster: str, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(album, tmp_path / "local", "--engine", "local") == 1
    capsys.readouterr()

    others = {one.pid for one in actors()}
    killed: list[int] = []

    def kill_one() -> None:
        end = time.monotonic() + 240
        while time.monotonic() < end and not killed:
            written = list((tmp_path / "ray").glob("part-*"))
            ours = [one.pid for one in actors() if one.pid not in others]
            if written and ours:
                os.kill(ours[0], signal.SIGKILL)
                killed.append(ours[0])
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    assert run(album, tmp_path / "ray", "--ray-address", ray_cluster) == 1
    killer.join()
    assert len(killed) == 1
    printed = capsys.readouterr()
    assert f"{PHOTOGRAPHS + 1} photographs in {tmp_path / 'ray'}" in printed.out
    assert "failed: corrupt_image: 1" in printed.out
    assert pq.read_table(tmp_path / "ray").equals(pq.read_table(tmp_path / "local"))

    # A job that one engine began, the other ends.
    (tmp_path / "ray" / "part-000001.parquet").unlink()
    assert run(album, tmp_path / "ray", "--resume", "--engine", "local") == 1
    assert pq.read_table(tmp_path / "ray").equals(pq.read_table(tmp_path / "local"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_is_not_there_is_one_line(
    album: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(album, tmp_path / "out", "--ray-address", "127.0.0.1:1") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: cannot reach the cluster at 127.0.0.1:1: ")
    assert not (tmp_path / "out").exists()
