"""Caption metrics equal to pycocoevalcap's: BLEU, METEOR, ROUGE-L, CIDEr and, on request, SPICE.

    with Scorer(references) as scorer:
        print(scores_table(scorer.score(candidates)))

`read_pairs` reads both from files. Nothing here prints, and pycocoevalcap is imported on first use.
"""

from captioner.metrics.score_files import read_pairs
from captioner.metrics.scorer import METRICS, Scorer, Scores, scores_table

__all__ = ["METRICS", "Scorer", "Scores", "read_pairs", "scores_table"]
