"""Findings of Table 3: scores, differences to p = 0 and convergence of each group of runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.captioners.resampled import (
    Difference,
    Estimate,
    Resampled,
    difference,
    estimate,
)
from training.captioners.results import Convergence, Results, convergence, grouped, mean_curve
from training.captioners.runs import METRICS, CaptionerRun, Group

COMPARED = ("CIDEr", "METEOR", "Bleu_4")  # metrics of the paired test


@dataclass(frozen=True)
class Finding:
    """What the runs of a group say together."""

    group: Group
    seeds: tuple[int, ...]  # that are scored
    scores: Mapping[str, Estimate]  # by metric; empty where none is scored
    differences: Mapping[str, Difference]  # to p = 0 of the same seeds, by metric
    compared_seeds: tuple[int, ...]
    convergence: Convergence | None
    cell_shares: Mapping[str, Sequence[tuple[float, float]]]  # mean over seeds, by measure and lag

    def to_json(self) -> dict[str, Any]:
        return {
            **self.group._asdict(),
            "seeds": self.seeds,
            "scores": {
                name: {**one._asdict(), "interval": [*one.interval], "spread": one.spread}
                for name, one in self.scores.items()
            },
            "compared_with_p0_on_seeds": self.compared_seeds,
            "differences": {
                name: {**one._asdict(), "interval": [*one.interval]}
                for name, one in self.differences.items()
            },
            "convergence": None if self.convergence is None else vars(self.convergence),
            "cell_shares": dict(self.cell_shares),
        }


def find(
    runs: Sequence[CaptionerRun], results: Results, resampled: Mapping[CaptionerRun, Resampled]
) -> list[Finding]:
    """Return what each group of runs says; `resampled` has those that are scored."""
    groups = grouped(runs)
    converged = convergence(groups, results)
    found = []
    for group, own in groups.items():
        scored = [run for run in own if run in resampled]
        plain = {
            run.seed: run
            for run in groups.get(Group(group.decoder, 0.0, group.is_clipped), [])
            if run in resampled
        }
        pairs = [run for run in scored if run.seed in plain and run.p > 0]
        found.append(
            Finding(
                group,
                tuple(run.seed for run in scored),
                {name: estimate([resampled[run] for run in scored], name) for name in METRICS}
                if scored
                else {},
                {
                    name: difference(
                        [resampled[plain[run.seed]] for run in pairs],
                        [resampled[run] for run in pairs],
                        name,
                    )
                    for name in COMPARED
                }
                if pairs
                else {},
                tuple(run.seed for run in pairs),
                converged.get(group),
                {
                    name: mean_curve([results[run].cell_shares.get(name, ()) for run in own])
                    for name in dict.fromkeys(
                        name for run in own for name in results[run].cell_shares
                    )
                },
            )
        )
    return found


_SAYS = {
    "better": "h-detach helps",
    "worse": "h-detach harms",
    "not shown": "no difference that these runs show",
}
_SAYS_OF_ONE_SEED = {
    "better": "higher with this seed",
    "worse": "lower with this seed",
    "not shown": "no difference that this seed shows",
}


def verdicts(findings: Sequence[Finding]) -> list[str]:
    """Return in sentences whether p > 0 helps: of all that were compared, then of each group."""
    compared = [one for one in findings if "CIDEr" in one.differences]
    if not compared:
        return []
    counts = Counter(one.differences["CIDEr"].verdict for one in compared)
    lines = [
        f"Of {len(compared)} comparison{'s' if len(compared) > 1 else ''} with p = 0, h-detach "
        f"raises CIDEr in {counts['better']}, lowers it in {counts['worse']}, and in "
        f"{counts['not shown']} the 95 % interval holds zero."
    ]
    if any(len(one.differences["CIDEr"].by_seed) == 1 for one in compared):
        lines[0] += (
            " Where there is one seed, the interval is of other images, not of other seeds: a "
            "difference may be the seed's."
        )
    for one in compared:
        found = one.differences["CIDEr"]
        low, high = found.interval
        has_seeds = len(found.by_seed) > 1
        seeds = f"{len(found.by_seed)} seed" + ("s" if has_seeds else "")
        says = (_SAYS if has_seeds else _SAYS_OF_ONE_SEED)[found.verdict]
        lines.append(
            f"**{one.group}: {says}.** CIDEr {100 * found.mean:+.1f} against p = 0 "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}, p-value {found.p_value:.3f}, "
            f"{seeds})."
        )
    return lines
