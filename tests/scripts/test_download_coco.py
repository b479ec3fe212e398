"""The download of COCO, on a small COCO from a server on this machine."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

from captioner.data.open_dataset import open_dataset

ROOT = Path(__file__).resolve().parents[2]
LOCK = ".download.lock"
SPLITS = {"train2014": ["train", "train"], "val2014": ["val", "test", "restval"]}


def picture(place: str, number: int) -> str:
    return f"COCO_{place}_{number:012d}.jpg"


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What the server offers."""
    site = tmp_path / "site"
    site.mkdir()
    entries = []
    for place, splits in SPLITS.items():
        images = {f"{place}/{picture(place, n)}": os.urandom(5000) for n in range(len(splits))}
        images |= {f"{place}/": b"", "../../outside.txt": b"no picture"}
        zipped(site / f"{place}.zip", **images)
        entries += [
            {"filename": picture(place, n), "filepath": place, "split": split,
             "cocoid": 10 * len(entries) + n, "sentences": [{"raw": "A dog."}]}
            for n, split in enumerate(splits)
        ]  # fmt: skip
    split = json.dumps({"dataset": "coco", "images": entries}).encode()
    zipped(site / "caption_datasets.zip", **{"dataset_coco.json": split, "dataset_x.json": b"{}"})
    captions = {f"annotations/captions_{place}.json": b"{}" for place in SPLITS}
    zipped(
        site / "annotations_trainval2014.zip", **captions, **{"annotations/instances.json": b"{}"}
    )
    return site


@pytest.fixture
def script(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module whose addresses are those of a server of `site`."""
    spec = importlib.util.spec_from_file_location(
        "download_coco", ROOT / "scripts" / "download_coco.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "download_coco", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(
            module, "ARCHIVES", tuple(small(a, site, server.server_port) for a in module.ARCHIVES)
        )
        monkeypatch.setattr(module, "SPLIT_COUNTS", {"train": 2, "val": 1, "test": 1, "restval": 1})
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield module
        server.shutdown()


def small(archive, site: Path, port: int):
    content = (site / archive.name).read_bytes()
    return replace(
        archive,
        addresses=(f"http://127.0.0.1:{port}/{archive.name}",),
        size=len(content),
        sha256=archive.sha256 and hashlib.sha256(content).hexdigest(),
        count=archive.count if archive.members else len(SPLITS[archive.folder]),
    )


def tree(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files if path.name != LOCK)


EVERYTHING = [
    "annotations/captions_train2014.json",
    "annotations/captions_val2014.json",
    "dataset_coco.json",
    *(f"train2014/{picture('train2014', n)}" for n in range(2)),
    *(f"val2014/{picture('val2014', n)}" for n in range(3)),
]


def test_everything_is_laid_out_as_training_finds_it(script, tmp_path, capsys):
    assert script.main([]) == 0
    assert tree(tmp_path / "data" / "coco") == EVERYTHING
    out = capsys.readouterr().out
    assert "data/coco is complete" in out
    assert out.endswith("next: python training/train_coco.py --p 0.4 --data coco\n")
    dataset = open_dataset("coco", announce=lambda _: None)
    assert dataset.counts() == {"train": 3, "val": 1, "test": 1}
    assert all(image.path.is_file() for image in dataset.images)


def test_what_is_there_is_not_fetched_again(script, site, tmp_path):
    assert script.main(["--out", "coco"]) == 0
    shutil.rmtree(site)
    assert script.main(["--out", "coco"]) == 0
    lost = tmp_path / "coco" / "annotations" / "captions_val2014.json"
    lost.unlink()
    assert script.main(["--out", "coco"]) == 2


@pytest.mark.parametrize(
    ("only", "files"),
    [("split", EVERYTHING[2:3]), ("images", EVERYTHING[3:]), ("captions", EVERYTHING[:2])],
)
def test_one_part_alone(script, tmp_path, capsys, only, files):
    assert script.main(["--only", only, "--out", "elsewhere"]) == 0
    assert tree(tmp_path / "elsewhere") == files
    out = capsys.readouterr().out
    assert f"elsewhere is complete ({only} only)" in out
    assert out.endswith("--data elsewhere\n")


def test_archives_are_kept_when_asked_for(script, site, tmp_path):
    assert script.main(["--keep-zips", "--out", "coco"]) == 0
    assert {p.name for p in (tmp_path / "coco").glob("*.zip")} == {p.name for p in site.iterdir()}


def test_an_interrupted_unpacking_goes_on(script, site, tmp_path):
    place = tmp_path / "coco" / "train2014"
    place.mkdir(parents=True)
    shutil.copy(site / "train2014.zip", tmp_path / "coco")
    (place / picture("train2014", 0)).write_bytes(b"torn")
    (place / (picture("train2014", 1) + ".part")).write_bytes(b"torn")
    assert script.main(["--only", "images", "--out", "coco"]) == 0
    with zipfile.ZipFile(site / "train2014.zip") as archive:
        for number in range(2):
            name = picture("train2014", number)
            assert (place / name).read_bytes() == archive.read(f"train2014/{name}")
    assert tree(tmp_path / "coco") == EVERYTHING[3:]


def test_too_small_a_disk_is_said_before_the_first_byte(script, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(script, "fetch", lambda file, _: asked.append(file))
    usage = shutil.disk_usage(tmp_path)._replace(free=30_000_000_000 - 1)
    monkeypatch.setattr(script.shutil, "disk_usage", lambda _: usage)
    sizes = {"train2014": (13e9, 14e9), "val2014": (6e9, 7e9), "": (0, 0), "annotations": (0, 0)}
    archives = [
        replace(a, size=int(size), unpacked_bytes=int(more))
        for a in script.ARCHIVES
        for size, more in [sizes[a.folder]]
    ]
    monkeypatch.setattr(script, "ARCHIVES", archives)
    monkeypatch.setattr(script, "RESERVE_BYTES", 1_000_000_000)
    # Train's archive with its images, then train's images, val's archive and val's images: 27 GB.
    assert [a.part for a in script.missing(tmp_path, None, False)].count("images") == 2
    assert script.main(["--keep-zips"]) == 2
    message = "data/coco needs 41.0 GB of free disk space and has 30.0 GB; free some, or choose"
    assert message in capsys.readouterr().err
    assert asked == []
    monkeypatch.setattr(script.shutil, "disk_usage", lambda _: usage._replace(free=27_999_999_999))
    assert script.main([]) == 2
    assert "needs 28.0 GB" in capsys.readouterr().err


def test_offline_is_one_line(script, capsys, monkeypatch):
    nowhere = "http://127.0.0.1:9/file"
    archives = [replace(a, addresses=(nowhere,)) for a in script.ARCHIVES]
    monkeypatch.setattr(script, "ARCHIVES", archives)
    assert script.main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("download_coco.py: caption_datasets.zip could not be fetched")
    assert "check the network" in err
    assert err.count("\n") == 1


def test_a_file_with_another_checksum_is_refused(script, site, capsys):
    content = bytearray((site / "train2014.zip").read_bytes())
    content[100] ^= 1
    (site / "train2014.zip").write_bytes(content)
    assert script.main(["--only", "images"]) == 2
    assert "train2014.zip has the SHA-256" in capsys.readouterr().err
    assert tree(Path("data/coco")) == []


def test_a_split_that_is_divided_otherwise_is_refused(script, capsys, monkeypatch):
    monkeypatch.setitem(script.SPLIT_COUNTS, "train", 3)
    assert script.main(["--only", "split"]) == 2
    err = capsys.readouterr().err
    assert "dataset_coco.json has {'train': 2, 'val': 1, 'test': 1, 'restval': 1} images" in err
    assert not Path("data/coco/dataset_coco.json").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "lacking"])
def test_a_damaged_archive_is_removed(script, site, capsys, damage):
    path = site / "caption_datasets.zip"
    if damage == "lacking":
        zipped(path, other=b"")
    else:
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-100])
    assert script.main(["--only", "split"]) == 2
    assert "has been removed; run the same command again" in capsys.readouterr().err
    assert tree(Path("data/coco")) == []


def test_a_second_download_into_the_folder_is_refused(script, capsys):
    with script.locked(Path("data/coco")):
        assert script.main([]) == 2
    assert "another download into data/coco is running" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(script, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "fetch", interrupt)
    assert script.main([]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err


def test_it_runs_as_a_script_and_explains_itself():
    answer = subprocess.run(
        [sys.executable, ROOT / "scripts" / "download_coco.py", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("--out", "--only", "--keep-zips"):
        assert option in answer.stdout


def test_the_real_addresses_are_the_official_ones():
    source = (ROOT / "scripts" / "download_coco.py").read_text()
    for address in (
        "http://images.cocodataset.org/zips/train2014.zip",
        "http://images.cocodataset.org/zips/val2014.zip",
        "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    ):
        assert address in source
