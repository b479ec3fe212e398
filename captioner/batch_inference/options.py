"""Options of a job. Importing this imports nothing of the extras."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captioner.options import AT_LEAST_ONE, Options, option

ENGINES = ("local", "ray")
# Of the search: those of one caption for each photograph.
SEARCH = (
    *("beam_size", "max_length", "length_power", "include", "exclude"),
    *("no_repeat_ngram", "repeat_words", "attribute_threshold"),
)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    out: str = option(
        "captions", "folder, or URL of one, that the captions are written to", metavar="DIR"
    )
    checkpoint: Path | None = option(
        None,
        "folder of a checkpoint, of a run or of an exported model; the model that comes with "
        "captioner where it is not given",
        metavar="DIR",
    )
    resume: bool = option(False, "go on with the job in --out: what is written is left alone")
    engine: str | None = option(
        None,
        "local: processes of this machine; ray: a Ray cluster. Without it local, or ray where "
        "--ray-address is given",
        choices=ENGINES,
    )
    ray_address: str | None = option(
        None, "of the Ray cluster: auto on a machine of it, else HOST:6379", metavar="ADDRESS"
    )
    workers: int | None = option(
        None,
        "models that caption side by side; as many as there are cores for, and GPUs, where it is "
        "not given",
        within=AT_LEAST_ONE,
    )
    cores: int = option(
        1,
        "of each model: so many threads compute, and so many processes decode for it. With a GPU "
        "take those of the machine divided by its GPUs",
        within=AT_LEAST_ONE,
    )
    device: str = option("cpu", "cpu or cuda", metavar="DEVICE", choices=("cpu", "cuda"))
    batch_size: int = option(16, "photographs captioned together", within=AT_LEAST_ONE)
    shard_size: int | None = option(
        None,
        "photographs of one file of captions; 1,024 or fewer where it is not given. A tar is one "
        "file whatever it holds",
        within=AT_LEAST_ONE,
    )
    column: str | None = option(
        None,
        "of Parquet: the one with images or paths, if its name does not say so",
        metavar="NAME",
    )

    def contradictions(self) -> Iterable[str]:
        if self.engine == "local" and self.ray_address is not None:
            yield "--engine is local, and --ray-address names a cluster; leave one of them out"

    @property
    def chosen_engine(self) -> str:
        return self.engine or ("local" if self.ray_address is None else "ray")
