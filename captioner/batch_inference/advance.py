"""Reports of an engine while a job goes on."""

from typing import NamedTuple

from captioner.batch_inference.results import ShardSummary


class Advance(NamedTuple):
    """How far a job has come since the last one of these."""

    photographs: int  # less than nothing where work was lost
    summary: ShardSummary | None = None  # of a shard that is written
