"""`captioner score`: captions of a file against the references of another."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from captioner.commands.output import print_json

DESCRIPTION = """\
Score captions with BLEU-1..4, METEOR, ROUGE-L and CIDEr, equal to pycocoevalcap's figures.

REFERENCES is a JSON of COCO annotations, a Karpathy JSON or {id: [captions]}; CANDIDATES a JSON
list of {"image_id", "caption"}. One file may hold both: a list of
{"image_name", "captions", "prediction"}, or captions that a validation wrote.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "score",
        help="score captions against references",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("references", type=Path, metavar="REFERENCES")
    add("candidates", type=Path, metavar="CANDIDATES", nargs="?")
    add("--split", help="of a Karpathy JSON: train, val, test or all (test)")
    add("--subset", action="store_true", help="leave out images that have no candidate")
    add("--tokenised", action="store_true", help="take all captions as tokens, as they stand")
    add("--spice", action="store_true", help="SPICE too, which is slow")
    add("--json", action="store_true", help="print JSON with the keys Bleu_1 … CIDEr")
    add("--out", type=Path, metavar="FILE", help="write JSON with the scores of each image too")
    add_bootstrap(parser, None)
    parser.set_defaults(run=run)


def add_bootstrap(parser: argparse.ArgumentParser, default: int | None) -> None:
    """Give a parser the flags of resampling."""
    text = "95 %% intervals, by drawing the images anew N times, such as 1000"
    if default is not None:
        text = f"how often the images are drawn anew ({default})"
    parser.add_argument("--bootstrap", type=int, default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, help="of these draws (0)")


def chosen_split(given: str | None) -> str | None:
    """Return the split of a Karpathy JSON to score, None for all."""
    return None if given == "all" else given or "test"


def run(arguments: argparse.Namespace) -> int:
    from captioner.errors import OptionError
    from captioner.files import refuse_to_overwrite, write_json
    from captioner.metrics import Scorer, scores_table
    from captioner.metrics.resampling import check_samples
    from captioner.metrics.score_files import read_signed_pairs

    seed = arguments.seed or 0
    if arguments.bootstrap is not None:
        check_samples(arguments.bootstrap, seed)
    elif arguments.seed is not None:
        raise OptionError(
            f"--seed is {seed} without --bootstrap; it acts on images that are drawn anew alone"
        )
    split = chosen_split(arguments.split)
    files = (arguments.references, arguments.candidates)
    if arguments.out is not None:
        refuse_to_overwrite("--out", [arguments.out], filter(None, files))
    references, candidates, known = read_signed_pairs(
        *files,
        split=split,
        subset=arguments.subset,
        needs_splits=split is not None and arguments.split is not None,
    )
    intervals = None
    with Scorer(references, spice=arguments.spice, tokenised=arguments.tokenised) as scorer:
        scores = scorer.score(candidates)
        if arguments.bootstrap is not None:
            drawn = {"samples": arguments.bootstrap, "seed": seed}
            intervals = scorer.bootstrap(scores, **drawn)
            known |= {"bootstrap": arguments.bootstrap, "seed": seed}
    scores = replace(scores, signature={**known, **scores.signature})
    value = scores.to_json()
    if intervals is not None:
        value["intervals"] = {name: [*interval] for name, interval in intervals.items()}
    if arguments.out is not None:
        write_json(arguments.out, {**scores.to_json(per_image=True), **value})
    if arguments.json:
        print_json(value)
        for note in scores.notes:
            print(f"note: {note}", file=sys.stderr)
    else:
        print(scores_table(scores, intervals))
    return 0
