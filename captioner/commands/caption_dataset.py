"""`captioner caption-dataset`: the captions of a whole data set, as Parquet."""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from captioner.batch_inference.options import SEARCH, DatasetOptions
from captioner.errors import CaptionerError
from captioner.extras import needing, require
from captioner.flags import add_flags
from captioner.search_config import SearchConfig, SearchFlags
from captioner.text import escaped

if TYPE_CHECKING:
    from captioner.batch_inference.advance import Advance
    from captioner.batch_inference.job import Job
    from captioner.batch_inference.shard_captioner import ShardSettings

SOME_FAILED = 1  # exit status
WARMING = 1 / 8  # of a job, which the steady rate leaves out: processes start one after the other
DESCRIPTION = """\
Caption every photograph of SOURCE and write Parquet files with the columns path, caption, log_prob,
confidence, width, height, error and model. A photograph that cannot be read is a row with an error.

SOURCE is a folder (with its subfolders), a quoted pattern, a list of paths (.txt), tar files
(WebDataset; 'shard-{000..099}.tar') or Parquet files with a column of images or paths. Each may be
a URL of fsspec, such as s3://bucket/folder, where the package of its protocol is installed.
"""
EXAMPLES = """\
examples:
  captioner caption-dataset photographs/ --out captions
  captioner caption-dataset photographs/ --out captions --resume
  captioner caption-dataset 'shards/{0000..0099}.tar' --out captions --workers 4
  captioner caption-dataset s3://bucket/archive --out s3://bucket/captions --ray-address auto
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "caption-dataset",
        help="caption a whole data set, on this machine or a Ray cluster",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="what is captioned")
    add_flags(parser, DatasetOptions)
    add_flags(parser.add_argument_group("the search"), SearchConfig, names=SEARCH)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    names = {item.name for item in fields(DatasetOptions)}
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = DatasetOptions(**{name: given[name] for name in names & given.keys()})
    search = SearchFlags.for_captions(**{name: given[name] for name in SEARCH if name in given})
    with needing("datasets", "captioner caption-dataset"):
        from captioner.batch_inference import job
        from captioner.batch_inference.storage import OutputFolder
    if options.chosen_engine == "ray":
        require("ray", "--engine ray", "ray")

    settings = _settings(options, search)
    out = OutputFolder(options.out)
    with out.locked():
        begun = job.begin_job(
            out,
            arguments.source,
            model_hash=settings.model_hash,
            search=search,
            column=options.column,
            shard_size=options.shard_size,
            resume=options.resume,
        )
        try:
            return _follow(begun, _advances(options, settings, begun), options)
        except CaptionerError:  # such as no cluster, or no memory for a model
            begun.withdraw()
            raise


def _advances(
    options: DatasetOptions, settings: "ShardSettings", job: "Job"
) -> "Iterator[Advance]":
    """Let the chosen engine caption what is left of a job."""
    if options.chosen_engine == "ray":
        from captioner.batch_inference.ray_data import caption_on_cluster

        return caption_on_cluster(
            settings,
            job.remaining(),
            address=options.ray_address,
            workers=options.workers,
            cores=options.cores,
        )
    from captioner.batch_inference.local import caption_here
    from captioner.cores import available_cores

    side_by_side = max(1, available_cores() // options.cores) if options.device == "cpu" else 1
    workers = options.workers or side_by_side
    return caption_here(settings, job.remaining(), workers)


def _settings(options: DatasetOptions, search: SearchConfig) -> "ShardSettings":
    """Return what each process needs.

    The model is loaded once to see that it is whole, and that its device is here, before anything
    is written. (A cluster's devices are elsewhere.)
    """
    from captioner.batch_inference.shard_captioner import ShardSettings
    from captioner.batch_inference.storage import absolute
    from captioner.captioner import load
    from captioner.checkpoint_folders import find_checkpoint, shipped_model
    from captioner.control import control_of

    if options.checkpoint is None:
        model = shipped_model()
        print(
            "using the model that comes with captioner; --checkpoint names another", file=sys.stderr
        )
    else:
        model = find_checkpoint(options.checkpoint)
    captioner = load(
        model, options.device if options.chosen_engine == "local" else "cpu", threads=1
    )
    control_of(search, captioner.vocabulary)  # refuses words that the model does not know
    return ShardSettings(
        model=str(model.absolute()),
        model_hash=captioner.hash,
        out=absolute(options.out),
        search=search,
        device=options.device,
        threads=options.cores,
        decoders=options.cores,
        batch_size=options.batch_size,
    )


def _follow(job: "Job", advances: "Iterator[Advance]", options: DatasetOptions) -> int:
    """Show how a job goes on, write its summary and return the exit status."""
    from captioner.batch_inference.job import Totals
    from captioner.progress import Progress, duration

    totals = Totals(job.earlier.shards, job.earlier.photographs, job.earlier.failures.copy())
    began, initial = time.monotonic(), totals.photographs
    pace = _Pace(began)
    try:
        with Progress(
            job.expected(totals), "captioning", unit="photographs", initial=initial
        ) as progress:
            for advance in advances:
                if advance.summary is not None:
                    totals.add(advance.summary)
                    progress.expect(job.expected(totals))
                failed = {"failed": str(totals.failures.total())} if totals.failures else {}
                progress.advance(advance.photographs, **failed)
                expected = job.expected(totals)
                pace.add(advance.photographs, None if expected is None else expected - initial)
    except KeyboardInterrupt:
        print(
            f"{totals.photographs:,} photographs are written; go on with --resume", file=sys.stderr
        )
        raise
    done, seconds = pace.done, time.monotonic() - began
    job.finish(
        {
            "photographs": totals.photographs,
            "failures": dict(totals.failures),
            "engine": options.chosen_engine,
            "photographs_now": done,
            "seconds_now": round(seconds, 3),
            "seconds_to_first": pace.seconds_to_first,
            "photographs_per_second": pace.steady_rate(),
            "work_seconds": {name: round(value, 3) for name, value in totals.seconds.items()},
        }
    )
    rate = f" in {duration(seconds)}, {done / seconds:.3g} a second" if done else ""
    earlier = f", {initial:,} of them before" if initial else ""
    print(f"{totals.photographs:,} photographs in {escaped(job.out.path)}{earlier}{rate}")
    for kind, count in totals.failures.most_common():
        print(f"failed: {kind}: {count:,}")
    return SOME_FAILED if totals.failures else 0


class _Pace:
    """How quickly photographs are captioned, apart from the start and the end of the processes."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._first: float | None = None  # when the first photographs were done
        self._warm: tuple[float, int] | None = None  # when all processes surely worked; done then
        self._last = began
        self.done = 0

    def add(self, photographs: int, expected: int | None) -> None:
        """Count photographs as done now, of so many that are expected."""
        self.done += photographs
        self._last = time.monotonic()
        self._first = self._first or self._last
        if self._warm is None and self.done >= (expected or 0) * WARMING:
            self._warm = self._last, self.done

    @property
    def seconds_to_first(self) -> float | None:
        return None if self._first is None else round(self._first - self._began, 3)

    def steady_rate(self) -> float | None:
        """Return photographs a second from then on; None where all came at once."""
        if self._warm is None or self.done <= self._warm[1] or self._last <= self._warm[0]:
            return None
        return round((self.done - self._warm[1]) / (self._last - self._warm[0]), 3)
