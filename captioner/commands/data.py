"""`captioner data`: check a data set, make one from a table or of several, divide one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.output import print_json
from captioner.text import escaped

if TYPE_CHECKING:
    from captioner.data.karpathy import CaptionDataset

FINDINGS = 1  # exit status

CONVERT_DESCRIPTION = """\
Write Karpathy's JSON, which training reads, from a table of captions: CSV with the header
image,caption or image,caption,split, or JSONL with these keys; a row for each caption. Without
splits the images are divided by a rule that depends on their names and the seed only.
"""

HOLD_OUT_DESCRIPTION = """\
Write a data set in which N training images are held out for judging: those with most captions,
and among these a choice that depends on their names and the seed only.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("data", help="check, convert, divide or merge data sets")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    checking = actions.add_parser(
        "check",
        help="look for what is wrong in a data set",
        description="Look for missing or damaged images, empty captions, doubles and split leaks, "
        "count images and words. The exit status is 1 where something was found.",
    )
    add = checking.add_argument
    add("path", metavar="PATH", help="a folder with a dataset*.json, the JSON itself, coco, shapes")
    add("--images", type=Path, metavar="DIR", help="folder of the images, if not beside the JSON")
    add("--json", action="store_true", help="print JSON")
    checking.set_defaults(run=run_check)

    converting = actions.add_parser(
        "convert",
        help="turn a table of captions into a data set",
        description=CONVERT_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = converting.add_argument
    add("source", type=Path, metavar="SOURCE", help="a .csv, .tsv or .jsonl file")
    add("out", type=Path, metavar="OUT", nargs="?", help="the JSON or its folder (beside SOURCE)")
    add("--images", type=Path, metavar="DIR", help="folder of the images (that of SOURCE)")
    add("--name", help="name of the data set (that of SOURCE)")
    add("--val-share", type=float, default=0.1, metavar="SHARE", help="of the images (0.1)")
    add("--test-share", type=float, default=0.1, metavar="SHARE", help="of the images (0.1)")
    add("--seed", type=int, default=0, help="of the division (0)")
    converting.set_defaults(run=run_convert)

    holding = actions.add_parser(
        "hold-out",
        help="hold out training images for judging",
        description=HOLD_OUT_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = holding.add_argument
    add("data", metavar="PATH", help="a folder with a dataset*.json, the JSON itself, coco, shapes")
    add("count", type=int, metavar="N", help="images to hold out")
    add("--out", type=Path, required=True, metavar="FILE", help="the new JSON, or its folder")
    add("--images", type=Path, metavar="DIR", help="folder of the images, if not beside the JSON")
    add("--as", dest="split", default="val", metavar="SPLIT", help="their new split (val)")
    add("--former", metavar="SPLIT", help="where images go that were in it before (they stay)")
    add("--seed", type=int, default=0, help="of the choice (0)")
    holding.set_defaults(run=run_hold_out)

    merging = actions.add_parser(
        "merge",
        help="write several data sets as one",
        description="Write several data sets as one file. Splits are kept, images get new ids, and "
        "each still says its set and its id there.",
    )
    add = merging.add_argument
    add("data", nargs="+", metavar="PATH", help="folders with a dataset*.json, or the JSONs")
    add("--out", type=Path, required=True, metavar="FILE", help="the new JSON, or its folder")
    add("--images", nargs="+", default=(), metavar="DIR", help="folder of each set's images, or ''")
    add("--name", help="name of the data set (the names of all, with + between)")
    add("--absolute", dest="is_absolute", action="store_true", help="name images by absolute paths")
    merging.set_defaults(run=run_merge)


def run_check(arguments: argparse.Namespace) -> int:
    from captioner.data.check import check_dataset

    report = check_dataset(arguments.path, arguments.images)
    if arguments.json:
        print_json(report.to_json())
    else:
        print(report)
    return 0 if report.ok else FINDINGS


def run_convert(arguments: argparse.Namespace) -> int:
    from captioner.data.convert import convert

    _print_counts(convert(**_without_run(arguments)))
    return 0


def run_hold_out(arguments: argparse.Namespace) -> int:
    from captioner.data.hold_out import hold_out

    _print_counts(hold_out(**_without_run(arguments)))
    return 0


def run_merge(arguments: argparse.Namespace) -> int:
    from captioner.data.merge import merge

    _print_counts(merge(**_without_run(arguments)))
    return 0


def _without_run(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(arguments).items() if name != "run"}


def _print_counts(dataset: "CaptionDataset") -> None:
    counts = ", ".join(f"{count:,} {split}" for split, count in dataset.counts().items())
    print(escaped(f"{dataset.json_path}: {counts}"))
