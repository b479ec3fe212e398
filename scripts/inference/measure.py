"""The measurements: contestants take turns with the same work, each in its own process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_turns import load_of_others, machine

from captioner.errors import ToolError
from captioner.files import read_json
from captioner.progress import Progress
from inference.contestants import LIMITS, TEXTBOOK, Contestant, Worker, contestants, folder_of
from inference.models import INT8_DECODER, photographs
from inference.options import MODELS, InferenceOptions
from inference.report import summary, table_as_markdown, with_ratios
from inference.starts import time_starts

TURN_SECONDS, TURN_RUNS = 0.25, 25  # a turn ends after either, and has one run at least
LEAST_ROUNDS = 3
START_ROUNDS = 3
Rows = dict[str, dict[str, Any]]
Turn = tuple[Worker, str, Mapping[str, Any]]  # whom to ask what


class Run:
    """One run: its contestants and photographs."""

    def __init__(self, options: InferenceOptions) -> None:
        self.options = options
        self.contestants = contestants(options)
        self._problems: dict[tuple[str, str], ToolError] = {}
        *self.images, self.large_image = photographs(options.work)
        self.measures: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
            "decoder": self.decoder,
            "photograph": self.photograph,
            "start": self.start,
            "memory": self.memory,
            "large": self.large,
        }

    def part(self, name: str) -> dict[str, Any]:
        """Measure one part; return its tables with what is known of the machine."""
        before, tables = load_of_others(), []
        for table in self.measures[name]():
            tables.append(table)
            print(f"\n{table_as_markdown(table)}\n", flush=True)
        return {
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "machine": machine(),
            "threads": self.options.threads,
            "load_of_others": {"before": before, "after": load_of_others()},
            "tables": tables,
        }

    def prepare(self) -> None:
        """Make all models, so that measuring takes no more time than it must."""
        made = [(one, model) for model in self.options.models for one in self.contestants]
        with Progress(len(made), "models", unit="folders") as progress:
            for one, model in made:
                try:
                    self._folder(one, model)
                except ToolError as problem:
                    print(f"{model}, {one.name}: {problem}")
                progress.advance(now=f"{model}, {one.name}")

    def decoder(self) -> Iterator[dict[str, Any]]:
        """Yield how long captions for random features take, for every different size."""
        seen: set[tuple[int, int]] = set()
        for model in self.options.models:
            with ExitStack() as stack:
                # OpenVINO runs encoders; captions are searched for by ONNX Runtime in any case.
                of = [
                    one
                    for one in self.contestants
                    if one.engine != "openvino" and one.precision != INT8_DECODER
                ]
                workers, errors = self._workers(model, stack, of, self.images[:1])
                limit, _ = self._workers(model, stack, [Contestant(LIMITS, kind=LIMITS)], [])
                words, features = self._decoder_sizes(model)
                if (words, features) in seen:
                    continue
                seen.add((words, features))
                for batch in self.options.batches:
                    arguments = {"batch": batch, "features": features}
                    turns: dict[str, Turn] = {
                        name: (worker, "decode", arguments)
                        for name, worker in workers.items()
                        if batch == 1 or name != TEXTBOOK
                    }
                    for precision, size in (("int8", 1), ("float32", 4)):
                        name = f"limit: {precision} weights read"
                        turns[name] = (limit[LIMITS], "read", {"bytes_each": size})
                    for library in ("int8", "float32", "torch"):
                        asked = {"batch": batch, "library": library}
                        turns[f"limit: products, {library}"] = (limit[LIMITS], "products", asked)
                    yield self._table("decode", model, batch, turns, errors)

    def photograph(self) -> Iterator[dict[str, Any]]:
        """Yield how long encoders take, and photographs as JPEG bytes until their captions."""
        for model in self.options.models:
            with ExitStack() as stack:
                workers, errors = self._workers(model, stack, self._captioners(), self.images)
                for what in ("encode", "photograph"):
                    for batch in self.options.batches:
                        turns: dict[str, Turn] = {
                            name: (one, what, {"batch": batch}) for name, one in workers.items()
                        }
                        yield self._table(what, model, batch, turns, errors)

    def start(self) -> Iterator[dict[str, Any]]:
        """Yield how long a new process takes to load a model, and to caption a photograph."""
        model, folders, errors = self._small_model(), {}, {}
        for one in self._captioners():
            try:
                folders[one] = self._folder(one, model)
            except ToolError as problem:
                errors[one.name] = {"error": str(problem)}
        rounds = min(self.options.rounds, START_ROUNDS)
        for what, seconds in time_starts(folders, self.images[0], rounds).items():
            rows = {name: summary(every, 1) for name, every in seconds.items()}
            yield _table(what, model, 1, with_ratios({**rows, **errors}))

    def memory(self) -> Iterator[dict[str, Any]]:
        """Yield what a process needs that has captioned one photograph and a batch of eight."""
        for model in dict.fromkeys((self._small_model(), self.options.models[0])):
            rows: Rows = {}
            for one in self._captioners():
                with ExitStack() as stack:
                    workers, errors = self._workers(model, stack, [one], self.images)
                    rows.update(errors)
                    for name, worker in workers.items():
                        for batch in (1, 8):
                            worker.ask("photograph", batch=batch, seconds=0.0, most=1)
                        rows[name] = {**worker.facts, **worker.ask("memory")}
            yield _table("memory", model, 1, rows)

    def large(self) -> Iterator[dict[str, Any]]:
        """Yield how long a photograph of 12 megapixels takes to be made ready for the encoder."""
        model = self._small_model()
        with ExitStack() as stack:
            workers, errors = self._workers(model, stack, self._captioners(), [self.large_image])
            turns: dict[str, Turn] = {
                name: (worker, "read", {}) for name, worker in workers.items()
            }
            yield self._table("read", model, 1, turns, errors)

    def _captioners(self) -> list[Contestant]:
        return [one for one in self.contestants if one.kind == "captioner"]

    def _small_model(self) -> str:
        return next((one for one in self.options.models if one != "resnet152"), "resnet152")

    def _decoder_sizes(self, model: str) -> tuple[int, int]:
        path = self.options.work / model / "checkpoint" / "model.json"
        features = read_json(path, "a model's sizes", ToolError)["decoder"]["config"][
            "feature_size"
        ]
        return MODELS[model].words, features

    def _folder(self, one: Contestant, model: str) -> Path:
        """Return the folder of a model for a contestant; what cannot be made is tried once."""
        key = (one.name, model)
        if key in self._problems:
            raise self._problems[key]
        try:
            return folder_of(one, model, self.options)
        except ToolError as problem:
            self._problems[key] = problem
            raise

    def _workers(
        self, model: str, stack: ExitStack, of: Sequence[Contestant], images: Sequence[Path]
    ) -> tuple[dict[str, Worker], Rows]:
        """Start the processes of contestants; return them, and why others could not start."""
        workers, errors = {}, {}
        with Progress(len(of), f"loading {model}", unit="contestants") as progress:
            for one in of:
                try:
                    folder = self._folder(one, model)
                    worker = Worker.start(one, folder, images, self.options.threads)
                    stack.callback(worker.close)
                    workers[one.name] = worker
                except ToolError as problem:
                    errors[one.name] = {"error": str(problem)}
                progress.advance()
        return workers, errors

    def _table(
        self, what: str, model: str, batch: int, turns: Mapping[str, Turn], errors: Rows
    ) -> dict[str, Any]:
        rows = self._take_turns(f"{what}, {model}, batch {batch}", turns)
        figures = {name: summary(row.pop("seconds"), batch) | row for name, row in rows.items()}
        return _table(what, model, batch, with_ratios({**figures, **errors}))

    def _take_turns(self, title: str, turns: Mapping[str, Turn]) -> Rows:
        """Return the seconds of every run of each contestant, but for those of a first round.

        A row of one that answers with captions also says how many are those of the first one.
        """
        rows: Rows = {name: {"seconds": []} for name in turns}
        captions: dict[str, Any] = {}
        begin, number = time.monotonic(), 0
        with Progress(self.options.rounds, title, unit="rounds") as progress:
            while number <= self.options.rounds:
                for name, (worker, what, arguments) in turns.items():
                    limit = TURN_SECONDS if number else 0.0
                    reply = worker.ask(what, seconds=limit, most=TURN_RUNS, **arguments)
                    if number:
                        rows[name]["seconds"] += reply["seconds"]
                    elif what in ("decode", "photograph"):
                        captions[name] = reply["result"]
                    progress.advance(0, now=name)
                if number == 0:  # loads and allocates what is loaded and allocated once
                    begin = time.monotonic()
                else:
                    progress.advance()
                number += 1
                if number > LEAST_ROUNDS and time.monotonic() - begin > self.options.seconds:
                    break
        for name, found in captions.items():
            first = next(iter(captions.values()))
            same = sum(one == other for one, other in zip(found, first, strict=True))
            rows[name]["same"] = f"{same}/{len(found)}"
        return rows


def _table(what: str, model: str, batch: int, rows: Mapping[str, Any]) -> dict[str, Any]:
    return {"what": what, "model": model, "batch": batch, "rows": dict(rows)}
