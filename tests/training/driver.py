"""Runs the training script in processes of their own, for tests that kill them.

The imports are paid once: this program reads commands as lines of JSON, forks for each run, and
answers with its process id or, asked to, with its exit status. The runs score without Java.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence

import matplotlib.figure
import timm.data
import torch
import torch.utils.tensorboard

import training.captioning
import training.validation
from captioner.metrics import Scores
from captioner.metrics.ngram_metrics import BleuCounts
from training import copying, sequential_mnist, train_coco

PROGRAMS = {
    "train_coco": train_coco.main,
    "copying": copying.main,
    "sequential_mnist": sequential_mnist.main,
}


class WordScorer:
    """Scores by the share of a caption's words that stand in the references."""

    def __init__(
        self,
        references: Mapping[int, Sequence[str]],
        *,
        sets: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.references = references
        self.sets = sets or {}

    def score(self, candidates: Mapping[int, str]) -> Scores:
        shares = {}
        for key, caption in candidates.items():
            known = {word for text in self.references[key] for word in text.lower().split()}
            words = caption.split()
            shares[key] = sum(word in known for word in words) / len(words)
        mean = sum(shares.values()) / len(shares)
        names = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
        return Scores(
            overall=dict.fromkeys(names, mean),
            per_image={key: dict.fromkeys(names, share) for key, share in shares.items()},
            bleu_counts=BleuCounts(testlen=0, reflen=0, guess=(), correct=()),
            signature={"images": len(candidates), "references": 0, "tokenizer": "none"},
            by_set={
                name: dict.fromkeys(names, sum(shares[key] for key in keys) / len(keys))
                for name, keys in self.sets.items()
            },
        )

    def close(self) -> None:
        pass


def run(
    program: str,
    words: Sequence[str],
    folder: str,
    log: str,
    environment: Mapping[str, str],
    log_every: int | None,
) -> None:
    """Train in `folder` with all output in `log`, and end this process."""
    os.chdir(folder)
    os.environ.update(environment)
    if log_every is not None:
        training.captioning._LOG_EVERY_STEPS = log_every
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 70
    try:
        status = PROGRAMS[program](words)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    """Answer commands until there are no more."""
    for line in sys.stdin:
        command = json.loads(line)
        if "words" in command:
            answer = os.fork()
            if answer == 0:
                run(**command)
        else:
            pid, status = os.waitpid(command["pid"], os.WNOHANG if command["poll"] else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    training.validation.Scorer = WordScorer  # type: ignore[assignment, misc]
    # Imported where they are used, so that the runs need not do it one by one.
    assert matplotlib.figure
    assert timm.data
    assert torch.utils.tensorboard
    serve()
