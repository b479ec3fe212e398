"""The feature store: the encoder's own features, through kills, damage, full disks and company."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from captioner.data.images import open_image
from captioner.encoder import store as store_module
from captioner.encoder import store_writer
from captioner.encoder.config import EncoderConfig
from captioner.encoder.store import FeatureStore
from captioner.encoder.store_record import locked
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.errors import DataError, EncoderError, StorageError
from captioner.features import Features
from captioner.processes import Processes


class Photograph(NamedTuple):
    path: Path
    filename: str


def encoder(seed: int = 0, **values: Any) -> TimmEncoder:
    options = {"name": "test_resnet", "weights": "none", "image_size": 32, "grid": 2, **values}
    return TimmEncoder.create(EncoderConfig(**options), torch.Generator().manual_seed(seed))


@pytest.fixture
def images(tmp_path: Path) -> list[Photograph]:
    """Eleven photographs: with batches of two, five chunks and a short one."""
    found = []
    for number in range(11):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (40, 30 + number, 3), np.uint8)
        Image.fromarray(noise).save(path)
        found.append(Photograph(path, path.name))
    return found


@pytest.fixture(autouse=True)
def one_batch_per_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 1)


class Opened(NamedTuple):
    store: FeatureStore
    said: list[str]
    encoded: int  # how many images went through the encoder


def open_store(
    tmp_path: Path, images: list[Photograph], made: TimmEncoder | None = None, **options: Any
) -> Opened:
    made = made or encoder()
    said: list[str] = []
    encoded: list[int] = []
    plain = made.encode

    def counting(pixels: Any) -> Features:
        encoded.append(len(pixels))
        return plain(pixels)

    made.encode = counting  # type: ignore[method-assign]
    try:
        store = FeatureStore.open(
            tmp_path / "store", made, images, announce=said.append, **{"batch_size": 2} | options
        )
    finally:
        del made.encode
    return Opened(store, said, sum(encoded))


def direct(images: list[Photograph], made: TimmEncoder | None = None) -> torch.Tensor:
    made = made or encoder()
    return made.encode([made.preprocessing.read(image.path) for image in images]).grid


def assert_rounded(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Equal but for rounding to float16, and for the order of sums in batches of another size."""
    torch.testing.assert_close(found, exact, rtol=2**-10, atol=1e-5)


def test_the_store_holds_what_the_encoder_gives(tmp_path: Path, images: list[Photograph]) -> None:
    store, said, encoded = open_store(tmp_path, images)
    exact = direct(images)
    assert_rounded(store.rows(range(11)).grid, exact)
    assert encoded == len(store) == 11
    assert store.missing == frozenset()
    plain = np.load(store.folder / "features.npy")
    assert plain.dtype == np.float16
    assert torch.equal(torch.from_numpy(plain).float(), store.rows(range(11)).grid)
    kilobytes = (store.folder / "features.npy").stat().st_size / 1e3
    assert said[0].startswith(
        f"feature store: test_resnet features of 11 images take {kilobytes:.1f} kB (4 x "
        f"{exact.shape[2]} float16 each) in {store.folder}, where "
    )
    assert said[0].endswith(" GB are free")


def test_rows_come_in_the_order_asked_for(tmp_path: Path, images: list[Photograph]) -> None:
    store = open_store(tmp_path, images).store
    everything = store.rows(range(11)).grid
    order = [7, 0, 7, 10, 3]
    rows = store.rows(order).grid
    assert rows.dtype == torch.float32
    assert torch.equal(rows, everything[order])
    assert store.rows([]).grid.shape == (0, *everything.shape[1:])
    rows.zero_()  # a copy: the store is not written to
    assert torch.equal(store.rows(order).grid, everything[order])


def test_the_second_run_encodes_nothing(tmp_path: Path, images: list[Photograph]) -> None:
    first = open_store(tmp_path, images)
    second = open_store(tmp_path, images, encoder(), batch_size=3, workers=1)
    assert second.encoded == 0
    assert second.store.folder == first.store.folder
    assert torch.equal(second.store.rows(range(11)).grid, first.store.rows(range(11)).grid)
    assert len(second.said) == 1
    assert second.said[0].startswith("feature store: 11 images, ")


def test_whatever_changes_the_features_changes_the_store(
    tmp_path: Path, images: list[Photograph]
) -> None:
    others: list[Any] = [
        (encoder(), {}, images),
        (encoder(seed=1), {}, images),
        (encoder(grid=1), {}, images),
        (encoder(stage=3), {}, images),
        (encoder(image_mode="squash"), {}, images),
        (encoder(image_size=40), {}, images),
        (encoder(), {"mirrored": True}, images),
        (encoder(), {}, images[::-1]),
        (encoder(), {}, images[:-1]),
    ]
    folders = {open_store(tmp_path, i, e, **o).store.folder for e, o, i in others}
    with open(images[3].path, "ab") as file:
        file.write(b"more")
    folders.add(open_store(tmp_path, images).store.folder)
    assert len(folders) == len(others) + 1


def test_a_mirrored_store_holds_mirrored_images(tmp_path: Path, images: list[Photograph]) -> None:
    made = encoder(image_mode="squash")
    store = open_store(tmp_path, images, made, mirrored=True).store
    mirrored = [ImageOps.mirror(open_image(image.path)) for image in images]
    exact = made.encode([made.preprocessing.resize(image) for image in mirrored]).grid
    assert_rounded(store.rows(range(11)).grid, exact)
    assert "-mirrored-" in store.folder.name


def test_pictures_of_different_shapes_are_stored_alike(
    tmp_path: Path, images: list[Photograph]
) -> None:
    Image.effect_noise((64, 32), 80).convert("RGB").save(images[4].path)
    made = encoder(image_mode="whole", image_size=64)
    store = open_store(tmp_path, images, made, batch_size=4).store
    assert_rounded(store.rows(range(11)).grid, direct(images, made))


def test_killed_half_way_it_goes_on_where_it_stopped(
    tmp_path: Path, images: list[Photograph]
) -> None:
    script = """
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from test_store import FeatureStore, Photograph, encoder, store_module
        store_module.CHUNK_BYTES = 1
        made = encoder()
        plain = made.encode
        def slow(pixels):
            print("batch", flush=True)
            time.sleep(0.1)
            return plain(pixels)
        made.encode = slow
        images = [Photograph(Path(path), Path(path).name) for path in sys.argv[3:]]
        FeatureStore.open(Path(sys.argv[2]), made, images, batch_size=2)
    """
    arguments = [
        str(Path(__file__).parent),
        str(tmp_path / "store"),
        *(str(i.path) for i in images),
    ]
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(4):  # in the fourth of six batches, three are on the disk
            assert process.stdout.readline() == "batch\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    [folder] = (tmp_path / "store").iterdir()
    with open(folder / "journal.jsonl", "a") as file:
        file.write('{"chunk": 5, "sha')  # as if the kill had struck in the middle of a line
    store, _, encoded = open_store(tmp_path, images)
    assert encoded == 11 - 3 * 2
    assert_rounded(store.rows(range(11)).grid, direct(images))
    assert not (folder / "journal.jsonl").exists()


def test_bytes_lost_in_a_crash_are_noticed_when_going_on(
    tmp_path: Path, images: list[Photograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path, images)
    [folder] = (tmp_path / "store").iterdir()
    flip(folder / "features.npy", 200)
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 1)
    store, said, encoded = open_store(tmp_path, images)
    assert encoded == 11 - 3 * 2 + 2
    assert any("1 of 6 parts" in line and "are written again" in line for line in said)
    assert_rounded(store.rows(range(11)).grid, direct(images))


def interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = store_writer._encode
    done: list[int] = []

    def interrupting(*arguments: Any) -> np.ndarray:
        if len(done) == batches:
            raise KeyboardInterrupt
        done.append(1)
        return plain(*arguments)

    monkeypatch.setattr(store_writer, "_encode", interrupting)


def flip(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def test_damage_is_found_and_repaired(tmp_path: Path, images: list[Photograph]) -> None:
    store = open_store(tmp_path, images).store
    before = store.rows(range(11)).grid
    path = store.folder / "features.npy"
    flip(path, path.stat().st_size - 1)  # of the last image, alone in its chunk
    repaired, said, encoded = open_store(tmp_path, images, verify=True)
    assert encoded == 1
    assert said[0] == (
        f"feature store: 1 of 6 parts of {store.folder} are damaged and are written again"
    )
    assert torch.equal(repaired.rows(range(11)).grid, before)
    assert open_store(tmp_path, images, verify=True).encoded == 0


@pytest.mark.parametrize("damage", ["truncated", "longer", "gone", "manifest", "header"])
def test_gross_damage_is_noticed_without_being_asked(
    tmp_path: Path, images: list[Photograph], damage: str
) -> None:
    store = open_store(tmp_path, images).store
    before = store.rows(range(11)).grid
    path = store.folder / "features.npy"
    size = path.stat().st_size
    if damage == "gone":
        path.unlink()
    elif damage == "manifest":
        (store.folder / "manifest.json").write_text('{"format": 1, "sha')
    elif damage == "header":
        flip(path, 20)
    else:
        os.truncate(path, size - 100 if damage == "truncated" else size + 100)
    again = open_store(tmp_path, images)
    expected = {"truncated": 1, "longer": 0, "gone": 11, "manifest": 11, "header": 0}
    assert again.encoded == expected[damage]
    assert torch.equal(again.store.rows(range(11)).grid, before)
    assert path.stat().st_size == size


def test_a_disk_that_forgets_is_given_up(
    tmp_path: Path, images: list[Photograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module.Record, "damaged", lambda _: [0, 2])
    with pytest.raises(StorageError) as caught:
        open_store(tmp_path, images)
    [folder] = (tmp_path / "store").iterdir()
    assert str(caught.value) == (
        f"{folder} does not keep what is written to it: 2 parts are damaged after having been "
        "written anew; give a folder on another disk with --feature-store"
    )


def test_broken_images_are_named_skipped_and_remembered(
    tmp_path: Path, images: list[Photograph]
) -> None:
    images[2].path.write_bytes(b"no image")
    images[7].path.unlink()
    for attempt in range(2):
        store, said, encoded = open_store(tmp_path, images)
        assert store.missing == {2, 7}
        assert encoded == (9 if attempt == 0 else 0)
        assert said[-1].endswith("; 2 broken images are left out (first: 2.png)")
        named = [line for line in said if line.startswith("skipped: ")]
        assert [str(images[n].path) in line for n, line in zip((2, 7), named, strict=False)] == (
            [True, True] if attempt == 0 else []
        )
    kept = [n for n in range(11) if n not in store.missing]
    assert_rounded(store.rows(kept).grid, direct([images[n] for n in kept]))
    with pytest.raises(DataError, match=r"^2\.png has no features: .*2\.png is not an image"):
        store.rows([1, 2])


def test_many_broken_images_are_not_all_named(tmp_path: Path, images: list[Photograph]) -> None:
    images[1].path.write_bytes(b"no image")
    store, said, _ = open_store(tmp_path, [images[0], *[images[1]] * 30])
    named = [line for line in said if line.startswith("skipped: ")]
    assert len(named) == 21
    assert named[-1] == ("skipped: further images, which the manifest of the feature store names")
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert len(manifest["missing"]) == 30


def test_without_any_readable_image_there_is_no_store(
    tmp_path: Path, images: list[Photograph]
) -> None:
    with pytest.raises(DataError) as caught:
        open_store(tmp_path, [])
    assert str(caught.value) == "there is no image to encode; check the data set and its split"
    nowhere = [Photograph(Path("/nowhere/a.jpg"), "a.jpg")] * 3
    with pytest.raises(DataError) as caught:
        open_store(tmp_path, nowhere)
    assert str(caught.value) == (
        "none of the 3 images is there (first: /nowhere/a.jpg); check --images"
    )
    images[0].path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^none of the 1 images can be read \(first: .*0\.png"):
        open_store(tmp_path, images[:1])


def test_what_does_not_fit_is_not_begun(
    tmp_path: Path, images: list[Photograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int = 5000

    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: Usage())
    monkeypatch.setattr(store_writer, "_encode", None)
    with pytest.raises(StorageError) as caught:
        open_store(tmp_path, images)
    [folder] = (tmp_path / "store").iterdir()
    assert str(caught.value).startswith("the feature store takes 8.6 kB more in ")
    assert str(caught.value).endswith(
        f"in {folder} and 5.0 kB are free; free some space, give a folder on another disk with "
        "--feature-store, or a smaller --grid"
    )
    assert not (folder / "features.npy").exists()


def test_a_full_disk_keeps_what_was_written(
    tmp_path: Path, images: list[Photograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        open_store(tmp_path, images)
    [folder] = (tmp_path / "store").iterdir()
    assert str(caught.value) == (
        f"{folder / 'features.npy'} could not be written: No space left on device; what was "
        "written before is kept: free some space and run it again, it goes on from there"
    )
    monkeypatch.setattr(os, "fsync", real)
    store, _, encoded = open_store(tmp_path, images)
    assert 0 < encoded < 11
    assert_rounded(store.rows(range(11)).grid, direct(images))


def test_a_file_in_the_place_of_the_folder_is_named(
    tmp_path: Path, images: list[Photograph]
) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(StorageError, match="give another folder with --feature-store"):
        open_store(tmp_path, images)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path, images: list[Photograph]) -> None:
    made = encoder()
    made.network.conv1[0].weight.data.fill_(float("nan"))
    with pytest.raises(EncoderError) as caught:
        open_store(tmp_path, images, made)
    assert str(caught.value) == (
        "encoder test_resnet gives values that are no numbers; its weights (none) are damaged: "
        "give others with --encoder-weights"
    )


def test_large_values_stay_finite(tmp_path: Path, images: list[Photograph]) -> None:
    made = encoder(stage=0)
    made.network.conv1[0].weight.data.mul_(1e8)
    made.network.bn1.running_var.fill_(1e-9)
    rows = open_store(tmp_path, images, made).store.rows(range(11)).grid
    assert rows.max() == 65504


def test_a_second_process_waits_and_finds_the_store(
    tmp_path: Path, images: list[Photograph]
) -> None:
    finished = open_store(tmp_path, images).store
    (finished.folder / "manifest.json").rename(tmp_path / "manifest.json")
    said: list[str] = []
    is_waiting = threading.Event()

    def announce(line: str) -> None:
        said.append(line)
        is_waiting.set()

    made = encoder()
    made.encode = None  # type: ignore[assignment, method-assign]
    arguments = (tmp_path / "store", made, images)
    second = threading.Thread(
        target=FeatureStore.open, args=arguments, kwargs={"announce": announce, "batch_size": 2}
    )
    with locked(finished.folder, said.append):
        second.start()
        assert is_waiting.wait(30)
        (tmp_path / "manifest.json").rename(finished.folder / "manifest.json")
    second.join(30)
    assert not second.is_alive()
    assert said[0] == (
        f"feature store: another process is writing {finished.folder}; waiting for it"
    )
    assert said[1].startswith("feature store: 11 images, ")


class Thread(Processes):
    """One of two threads that stand for processes."""

    size = 2

    def __init__(self, rank: int, barrier: threading.Barrier, values: list[Any]) -> None:
        self.rank = rank
        self._barrier = barrier
        self._values = values

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(60)
        found = list(map(copy.deepcopy, self._values))
        self._barrier.wait(60)
        return found

    def share(self, value: Any) -> Any:
        return self.gather(value)[0]


def test_two_processes_write_one_store_each_a_part(
    tmp_path: Path, images: list[Photograph]
) -> None:
    images[3].path.write_bytes(b"no picture")  # in the second chunk, so the second process's
    alone = open_store(tmp_path / "alone", images)
    barrier, values = threading.Barrier(2), [None, None]
    made = [encoder(), encoder()]  # not in threads, for random weights come from one generator

    def open_one(rank: int) -> Opened:
        of_rank = Thread(rank, barrier, values)
        return open_store(tmp_path / "both", images, made[rank], processes=of_rank)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(open_one, range(2))
    assert (first.encoded, second.encoded) == (6, 4)
    for name in ("features.npy", "manifest.json"):
        expected = (alone.store.folder / name).read_bytes()
        assert (first.store.folder / name).read_bytes() == expected
    assert first.store.missing == second.store.missing == {3}
    assert [line for line in first.said if "skipped" in line] == [
        line for line in alone.said if "skipped" in line
    ]
    assert torch.equal(first.store.rows([0, 2, 10]).grid, second.store.rows([0, 2, 10]).grid)


def test_the_users_cache_is_the_default_place(
    tmp_path: Path, images: list[Photograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = FeatureStore.open(None, encoder(), images[:2])
    assert store.folder.parent == tmp_path / "cache" / "captioner" / "features"
    assert store.folder.name.startswith("test_resnet-2x2-2-images-")


def test_names_that_no_file_has_do_not_keep_the_others_from_being_stored(tmp_path):
    (tmp_path / "a.jpg").touch()
    images = [
        Photograph(tmp_path / name, name)
        for name in ("a.jpg", "a\0b.jpg", "\ud83d.jpg", "caf\udce9.jpg")
    ]
    assert store_module._images_hash(images) != store_module._images_hash(images[:3])
