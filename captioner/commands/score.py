"""`captioner score`: captions of a file against the references of another."""

import argparse
import sys
from pathlib import Path

from captioner.commands.output import print_json

DESCRIPTION = """\
Score captions with BLEU-1..4, METEOR, ROUGE-L and CIDEr, equal to pycocoevalcap's figures.

REFERENCES is a JSON of COCO annotations, a Karpathy JSON or {id: [captions]}; CANDIDATES a JSON
list of {"image_id", "caption"}. One file may hold both: a list of
{"image_name", "captions", "prediction"}.
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
    add("--split", default="test", help="of a Karpathy JSON: train, val, test or all (test)")
    add("--subset", action="store_true", help="leave out images that have no candidate")
    add("--tokenised", action="store_true", help="take all captions as tokens, as they stand")
    add("--spice", action="store_true", help="SPICE too, which is slow")
    add("--json", action="store_true", help="print JSON with the keys Bleu_1 … CIDEr")
    add("--out", type=Path, metavar="FILE", help="write JSON with the scores of each image too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from captioner.files import write_json
    from captioner.metrics import Scorer, read_pairs, scores_table

    references, candidates = read_pairs(
        arguments.references,
        arguments.candidates,
        split=None if arguments.split == "all" else arguments.split,
        subset=arguments.subset,
    )
    with Scorer(references, spice=arguments.spice, tokenised=arguments.tokenised) as scorer:
        scores = scorer.score(candidates)
    if arguments.out is not None:
        write_json(arguments.out, scores.to_json(per_image=True))
    if arguments.json:
        print_json(scores.to_json())
        for note in scores.notes:
            print(f"note: {note}", file=sys.stderr)
    else:
        print(scores_table(scores))
    return 0
