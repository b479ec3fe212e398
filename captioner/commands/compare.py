"""`captioner compare`: whether two sets of captions differ by more than chance."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.output import print_json
from captioner.commands.score import add_bootstrap, chosen_split

if TYPE_CHECKING:
    from captioner.metrics.resampling import Comparison

DESCRIPTION = """\
Compare two sets of captions for the same images: each metric of both, the difference of B less A
with its 95 % interval, and the p-value, by a paired bootstrap. CIDEr's idf is that of all
references.

A and B are JSON lists of {"image_id", "caption"} or {id: [caption]}, REFERENCES as for
`captioner score`. It is not needed where A and B hold their references, as the captions do that a
validation or evaluate_coco.py wrote.
"""
SAMPLES = 1000


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="compare two sets of captions, with p-values",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="captioner compare [options] [REFERENCES] A B",
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="[REFERENCES] A B")
    add("--split", help="of a Karpathy JSON: train, val, test or all (test)")
    add("--subset", action="store_true", help="leave out images that have no candidate in A")
    add("--tokenised", action="store_true", help="take all captions as tokens, as they stand")
    add("--spice", action="store_true", help="SPICE too, which is slow")
    add("--json", action="store_true", help="print JSON")
    add("--out", type=Path, metavar="FILE", help="write JSON")
    add_bootstrap(parser, SAMPLES)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from captioner.errors import OptionError
    from captioner.files import refuse_to_overwrite, write_json
    from captioner.metrics import Scorer
    from captioner.metrics.resampling import check_samples
    from captioner.metrics.score_files import read_two
    from captioner.metrics.signature import signature_line

    if len(arguments.files) not in (2, 3):
        raise OptionError(
            f"{len(arguments.files)} {'file is' if len(arguments.files) == 1 else 'files are'} "
            "given; name two files of captions, after their references where they do not hold these"
        )
    seed = arguments.seed or 0
    check_samples(arguments.bootstrap, seed)
    if arguments.out is not None:
        refuse_to_overwrite("--out", [arguments.out], arguments.files)
    split = chosen_split(arguments.split)
    *before, first, second = arguments.files
    source = before[0] if before else None
    one, other = read_two(
        source,
        first,
        second,
        split=split,
        subset=arguments.subset,
        needs_splits=split is not None and arguments.split is not None,
    )
    with Scorer(one.references, spice=arguments.spice, tokenised=arguments.tokenised) as scorer:
        scores, others = scorer.score(one.candidates), scorer.score(other.candidates)
        found = scorer.compare(scores, others, samples=arguments.bootstrap, seed=seed)
    drawn = {"bootstrap": arguments.bootstrap, "seed": seed}
    signatures = [{**pairs.signature, **scores.signature, **drawn} for pairs in (one, other)]
    value = {
        "metrics": {name: asdict(comparison) for name, comparison in found.items()},
        "signatures": signatures,
    }
    if arguments.out is not None:
        write_json(arguments.out, value)
    if arguments.json:
        print_json(value)
        return 0
    print(comparison_table(found))
    for name, file, signature in zip("AB", (first, second), signatures, strict=True):
        print(f"{name} {file}: {signature_line(signature)}")
    for note in dict.fromkeys(
        f"{name}: {note}" if note not in scores.notes or note not in others.notes else note
        for name, one in (("A", scores), ("B", others))
        for note in one.notes
    ):
        print(f"note: {note}")
    return 0


def comparison_table(found: "Mapping[str, Comparison]") -> str:
    """Return the comparison as lines of plain text."""
    rows: list[tuple[Any, ...]] = [("", "A", "B", "B - A", "95 % of B - A", "p")]
    for name, one in found.items():
        low, high = one.difference
        rows.append(
            (
                name,
                f"{one.first:.4f}",
                f"{one.second:.4f}",
                f"{one.second - one.first:+.4f}",
                f"[{low:+.4f}, {high:+.4f}]",
                f"{one.p_value:.4f}",
            )
        )
    return "\n".join("{:<8}{:>9}{:>9}{:>10}{:>22}{:>9}".format(*row) for row in rows)
