"""Download of COCO 2014 and Karpathy's split into data/coco: 20 GB, resumable.

python scripts/download_coco.py
python scripts/download_coco.py --only split --out elsewhere/coco
"""

import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from captioner.data.download import WebFile, fetch, part_of
from captioner.data.karpathy import read_karpathy
from captioner.errors import DataError, StorageError
from captioner.flags import options_parser
from captioner.options import Options, option
from captioner.program import run_program
from captioner.progress import Progress

DEFAULT_FOLDER = Path("data", "coco")
SPLIT_COUNTS = {"train": 82_783, "val": 5_000, "test": 5_000, "restval": 30_504}
ZIP = b"PK\x03\x04"  # the first bytes of a zip file
RESERVE_BYTES = 500_000_000  # left free on the disk


@dataclass(frozen=True, kw_only=True)
class Archive(WebFile):
    """A zip file on the web, and what of it is unpacked."""

    part: str  # of COCO, for --only
    folder: str  # where the members go, below COCO's folder
    members: Sequence[str] = ()  # their names without folders; all images where it is empty
    count: int  # of the files that it becomes
    unpacked_bytes: int = field(repr=False)  # estimated, with what a file system adds


# Sizes and SHA-256 of the official files: tensorflow/datasets at 333639b,
# tensorflow_datasets/url_checksums/coco.txt. The MD5 of train2014.zip and val2014.zip, should
# anyone need them, are 0da8c0bd3d6becc4dcb32757491aca88 and a3d79f5ed8d289b7a7554ce06a5782b3:
# salesforce/LAVIS at 200ac17, lavis/datasets/download_scripts/download_coco.py. No checksum of the
# split's archive was found published; its counts are compared instead.
ARCHIVES = (
    Archive(
        part="split",
        name="caption_datasets.zip",
        addresses=(
            "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
            "http://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
            "https://huggingface.co/datasets/gpantaz/karpathy_split/resolve/main/"
            "caption_datasets.zip",
        ),
        size=40_000_000,
        begins_with=ZIP,
        folder="",
        members=("dataset_coco.json",),
        count=1,
        unpacked_bytes=200_000_000,
    ),
    Archive(
        part="captions",
        name="annotations_trainval2014.zip",
        addresses=("http://images.cocodataset.org/annotations/annotations_trainval2014.zip",),
        size=252_872_794,
        sha256="031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        folder="annotations",
        members=("captions_train2014.json", "captions_val2014.json"),
        count=2,
        unpacked_bytes=120_000_000,
    ),
    Archive(
        part="images",
        name="train2014.zip",
        addresses=("http://images.cocodataset.org/zips/train2014.zip",),
        size=13_510_573_713,
        sha256="ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        folder="train2014",
        count=82_783,
        unpacked_bytes=13_900_000_000,
    ),
    Archive(
        part="images",
        name="val2014.zip",
        addresses=("http://images.cocodataset.org/zips/val2014.zip",),
        size=6_645_013_297,
        sha256="fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        folder="val2014",
        count=40_504,
        unpacked_bytes=6_900_000_000,
    ),
)


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(Options):
    out: Path = option(DEFAULT_FOLDER, "where it goes", metavar="FOLDER")
    only: str | None = option(
        None,
        "fetch one part: the split (it holds captions too), COCO's own captions, the images",
        choices=("captions", "images", "split"),
    )
    keep_zips: bool = option(False, "keep the archives once they are unpacked")


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what is missing, and return the exit status."""
    parser = options_parser(
        DownloadOptions,
        description="Fetch COCO 2014 (images and captions) and Karpathy's split of it. "
        "The same command goes on where an earlier one stopped.",
    )
    return run_program(
        "download_coco.py",
        lambda: _fetch_all(DownloadOptions.from_json(vars(parser.parse_args(argv)))),
        when_interrupted="interrupted; the same command goes on from here",
    )


def _fetch_all(options: DownloadOptions) -> None:
    folder, only = options.out, options.only
    with locked(folder):
        for archive in missing(folder, only, options.keep_zips):
            print(f"{archive.name} -> {folder / archive.folder}", flush=True)
            path = fetch(archive, folder)
            unpack(archive, path, folder)
            if not options.keep_zips:
                path.unlink()
    print(f"{folder} is complete" + (f" ({only} only)" if only else ""))
    data = "coco" if folder == DEFAULT_FOLDER else folder
    print(f"next: python training/train_coco.py --p 0.4 --data {data}")


def missing(folder: Path, only: str | None, keep_zips: bool) -> list[Archive]:
    """Return what is not there yet, once it is sure that the disk has room for it.

    Raises:
        StorageError: the disk has too little room.
    """
    todo = [
        archive
        for archive in ARCHIVES
        if only in (None, archive.part) and len(unpacked(archive, folder)) < archive.count
    ]
    used = needed = 0
    for archive in todo:
        path = folder / archive.name
        here = next((p.stat().st_size for p in (path, part_of(path)) if p.is_file()), 0)
        share_to_unpack = 1 - len(unpacked(archive, folder)) / archive.count
        used += max(0, archive.size - here) + round(archive.unpacked_bytes * share_to_unpack)
        needed = max(needed, used)
        used -= 0 if keep_zips else archive.size
    free = shutil.disk_usage(folder).free
    if todo and free < needed + RESERVE_BYTES:
        raise StorageError(
            f"{folder} needs {(needed + RESERVE_BYTES) / 1e9:.1f} GB of free disk space and has "
            f"{free / 1e9:.1f} GB; free some, or choose another disk with --out"
        )
    return todo


def unpacked(archive: Archive, folder: Path) -> list[Path]:
    """Return the files of the archive that are already in place."""
    place = folder / archive.folder
    if archive.members:
        return [place / name for name in archive.members if (place / name).is_file()]
    return list(place.glob("*.jpg"))


def unpack(archive: Archive, path: Path, folder: Path) -> None:
    """Put the members in place that are not there yet, each whole or not at all.

    Raises:
        DataError: the archive is damaged or does not hold what it should; it is removed.
    """
    place = folder / archive.folder
    try:
        with (
            zipfile.ZipFile(path) as content,
            Progress(archive.count, f"unpacking {path.name}", unit="files") as progress,
        ):
            for member in content.infolist():
                name = PurePosixPath(member.filename).name  # never a path out of the folder
                if not (name in archive.members if archive.members else name.endswith(".jpg")):
                    continue
                target = place / name
                if not (target.is_file() and target.stat().st_size == member.file_size):
                    write(target, content.read(member))
                progress.advance()
    except (zipfile.BadZipFile, EOFError, zlib.error) as problem:
        path.unlink()
        raise DataError(
            f"{path} is damaged ({problem}) and has been removed; run the same command again"
        ) from problem
    found = len(unpacked(archive, folder))
    if found < archive.count:
        path.unlink()
        raise DataError(
            f"{path} gave {found:,} of {archive.count:,} files and has been removed; "
            "run the same command again"
        )
    if archive.part == "split":
        split = place / archive.members[0]
        counts = read_karpathy(split).counts()
        if counts != SPLIT_COUNTS:
            split.unlink()
            raise DataError(f"{split} has {counts} images, not {SPLIT_COUNTS}; it has been removed")


def write(target: Path, content: bytes) -> None:
    """Write a file so that its name stands for all of its bytes.

    Tens of thousands are not flushed one by one: should the power fail, `captioner data check`
    finds the torn ones.
    """
    aside = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.rename(target)
    except OSError as problem:
        raise StorageError(
            f"{target} cannot be written: {problem.strerror}; see to the disk and run the same "
            "command again, which goes on where it stopped"
        ) from problem


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second download out of the folder while this one runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".download.lock").acquire(timeout=0)
    except Timeout as problem:
        raise StorageError(f"another download into {folder} is running") from problem
    except OSError as problem:
        raise StorageError(f"{folder} cannot be written: {problem.strerror}") from problem
    with lock:
        yield


if __name__ == "__main__":
    sys.exit(main())
