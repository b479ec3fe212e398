"""Report of the benchmark of inference: figures of a row, tables, targets and a picture."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.models import INT8_DECODER
from inference.options import MODELS
from training.plots import BLUE, GREEN, INK, ORANGE, PURPLE, STYLE, new_figure, write_picture

Table = Mapping[str, Any]  # "what", "model", "batch" and "rows" by contestant
TITLES = {
    "decode": "Features to caption",
    "encode": "Encoder alone",
    "photograph": "Photograph (JPEG) to caption",
    "read": "Photograph of 12 megapixels, made ready for the encoder",
    "command": "`captioner caption PHOTO` as a process",
    "load": "`import captioner; captioner.load(DIR)`",
    "memory": "Memory of a process",
}
RUNTIME = ("onnxruntime", "openvino")
BEFORE = "torch at "  # begins the name of an earlier commit
Figure = Callable[[Mapping[str, Any], Mapping[str, Any]], float]


def summary(seconds: Sequence[float], batch: int) -> dict[str, float]:
    """Return the figures of a contestant's runs, each of `batch` images."""
    middle = statistics.median(seconds)
    ordered = sorted(seconds)
    return {
        "images_per_second": batch / middle,
        "ms_per_image": 1e3 * middle / batch,
        "p50_ms": 1e3 * middle,
        "p95_ms": 1e3 * ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
        "min_ms": 1e3 * ordered[0],
        "runs": len(ordered),
    }


def with_ratios(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return rows with how many times as quick each is as every earlier commit, or as torch."""
    timed = {name: row["ms_per_image"] for name, row in rows.items() if "ms_per_image" in row}
    bases = [name for name in timed if name.startswith(BEFORE)] or list(timed)[:1]
    return {
        name: {**row, "ratios": {base: timed[base] / timed[name] for base in bases}}
        if name in timed
        else dict(row)
        for name, row in rows.items()
    }


@dataclass(frozen=True)
class Target:
    """A figure that is wanted of the runtime."""

    text: str
    wanted: float
    what: str
    models: tuple[str, ...] = ("lite1",)
    batch: int = 1
    of: tuple[str, ...] = ("",)  # only contestants whose name ends so
    figure: Figure = lambda row, _: next(iter(row["ratios"].values()))
    at_most: bool = False
    unit: str = "x"

    def best(self, tables: Sequence[Table]) -> Iterator[tuple[str, str, float]]:
        """Yield for each model its name, the best contestant and that one's figure."""
        for table in tables:
            if (table["what"], table["batch"]) != (self.what, self.batch):
                continue
            if table["model"] not in self.models:
                continue
            found = [
                (self.figure(row, table["rows"]), name)
                for name, row in table["rows"].items()
                if name.startswith(RUNTIME) and name.endswith(self.of) and "error" not in row
            ]
            if found:
                figure, name = min(found) if self.at_most else max(found)
                yield table["model"], name, figure

    def beside(self, tables: Sequence[Table], model: str, name: str) -> str:
        """Return the ratios to other earlier commits, in words."""
        if self.figure is not Target.figure:
            return ""
        key = (self.what, self.batch, model)
        table = next(one for one in tables if (one["what"], one["batch"], one["model"]) == key)
        others = list(table["rows"][name]["ratios"].items())[1:]
        return "".join(f"; {ratio:.3g}x {base.removeprefix('torch ')}" for base, ratio in others)

    def holds(self, figure: float) -> bool:
        return figure <= self.wanted if self.at_most else figure >= self.wanted


def _of_limit(row: Mapping[str, Any], rows: Mapping[str, Any]) -> float:
    return row["ms_per_image"] / rows["limit: int8 weights read"]["ms_per_image"]


def _seconds(row: Mapping[str, Any], _: Mapping[str, Any]) -> float:
    return row["p50_ms"] / 1e3


def _milliseconds(row: Mapping[str, Any], _: Mapping[str, Any]) -> float:
    return row["p50_ms"]


LIGHT = ("lite1", "mobilenetv2")
TARGETS = (
    Target("decoder at COCO's sizes, alone", 20, "decode", ("resnet152",)),
    Target("decoder at COCO's sizes, batch 8", 8, "decode", ("resnet152",), 8),
    Target(
        "decoder alone, against its int8 weights read once a step",
        1.5,
        "decode",
        ("resnet152",),
        of=("int8",),
        figure=_of_limit,
        at_most=True,
    ),
    Target("photograph to caption, alone", 5, "photograph", LIGHT),
    Target("photograph to caption, batch 8", 5, "photograph", LIGHT, 8),
    Target(
        "photograph to caption, alone, float32 encoder",
        3.5,
        "photograph",
        ("resnet152",),
        of=("float32", INT8_DECODER),
    ),
    Target(
        "photograph to caption, alone, int8 encoder",
        6,
        "photograph",
        ("resnet152",),
        of=(" int8",),
    ),
    Target("`captioner caption`", 1.2, "command", figure=_seconds, at_most=True, unit=" s"),
    Target("import and load", 0.5, "load", figure=_seconds, at_most=True, unit=" s"),
    Target("12 megapixels made ready", 60, "read", figure=_milliseconds, at_most=True, unit=" ms"),
)


def markdown(parts: Mapping[str, Any]) -> str:
    """Return the targets and all tables as Markdown."""
    tables = [table for part in parts.values() for table in part["tables"]]
    blocks = [targets_table(tables)]
    if _drawn(parts):
        blocks.append(
            "![Images per second of every contestant, alone and in batches](inference.png)"
        )
    for name, part in parts.items():
        machine, load = part["machine"], part["load_of_others"]
        blocks.append(
            f"### {name}\n\n{machine['model']}, {machine['cores']} cores, "
            f"{part['threads']} threads, commit {machine['commit']}, {part['when']}; "
            f"other programs used {load['before']:.0%} of the processor before and "
            f"{load['after']:.0%} after."
        )
        blocks += [table_as_markdown(table) for table in part["tables"]]
    return "\n\n".join(blocks) + "\n"


def targets_table(tables: Sequence[Table]) -> str:
    lines = ["| target | model | wanted | measured | by |", "|---|---|---|---|---|"]
    for target in TARGETS:
        sign = "≤" if target.at_most else "≥"
        for model, name, figure in target.best(tables):
            met = "" if target.holds(figure) else ", **missed**"
            measured = f"{figure:.3g}{target.unit}{met}{target.beside(tables, model, name)}"
            lines.append(
                f"| {target.text} | {model} | {sign} {target.wanted:g}{target.unit} "
                f"| {measured} | {name} |"
            )
    return "\n".join(lines)


def table_as_markdown(table: Table) -> str:
    title = TITLES[table["what"]]
    if table["model"] in MODELS:
        title += f", {MODELS[table['model']].title}"
    if table["batch"] > 1:
        title += f", batches of {table['batch']}"
    if table["what"] == "memory":
        head = "| | MB at the peak | MB of its own |\n|---|---|---|"
        lines = [
            f"| {name} | {row['peak_bytes'] / 1e6:.0f} | {row['own_bytes'] / 1e6:.0f} |"
            for name, row in table["rows"].items()
            if "error" not in row
        ]
    else:
        bases: Mapping[str, float] = next(
            (row["ratios"] for row in table["rows"].values() if "ratios" in row), {}
        )
        titles = [f"x {base.removeprefix('torch at ')}" for base in bases]
        columns = ["", "images/s", "ms per image", "p50 ms", "p95 ms", "runs", *titles]
        if has_captions := any("same" in row for row in table["rows"].values()):
            columns.append("same captions")
        head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
        lines = [
            f"| {name} | {row['images_per_second']:.3g} | {row['ms_per_image']:.3g} "
            f"| {row['p50_ms']:.3g} | {row['p95_ms']:.3g} | {row['runs']} "
            + "".join(f"| {ratio:.2f} " for ratio in row["ratios"].values())
            + (f"| {row.get('same', '-')} |" if has_captions else "|")
            for name, row in table["rows"].items()
            if "error" not in row
        ]
    lines += [
        f"\n{name}: not measured ({row['error']})"
        for name, row in table["rows"].items()
        if "error" in row
    ]
    return "\n".join([f"**{title}**", "", head, *lines])


def draw(parts: Mapping[str, Any], path: Path) -> None:
    """Draw images/s of decoder and photographs, alone and in batches, a panel each."""
    import matplotlib as mpl

    tables = _drawn(parts)
    if not tables:
        return
    columns = 2
    rows = -(-len(tables) // columns)
    with mpl.rc_context(STYLE):
        figure = new_figure(11, 2.6 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, table in zip(axes, tables, strict=False):
            _bars(axis, table)
        for axis in axes[len(tables) :]:
            axis.set_visible(False)
        write_picture(path, figure)


def _drawn(parts: Mapping[str, Any]) -> list[Table]:
    """Return the tables that the picture has a panel for."""
    wanted = [("decode", "resnet152"), *(("photograph", model) for model in MODELS)]
    return [
        table
        for what, model in wanted
        for part in parts.values()
        for table in part["tables"]
        if (table["what"], table["model"]) == (what, model) and table["batch"] in (1, 8)
    ]


def _bars(axis: Any, table: Table) -> None:
    named = {
        name: row
        for name, row in table["rows"].items()
        if "ms_per_image" in row and not name.startswith("limit")
    }
    names = list(named)[::-1]
    values = [named[name]["images_per_second"] for name in names]
    axis.barh(names, values, color=[_colour(name) for name in names])
    for place, value in enumerate(values):
        axis.text(value, place, f" {value:.3g}", va="center", fontsize=8, color=INK)
    axis.set_xlim(0, max(values) * 1.15)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", visible=False)
    what = "decoder" if table["what"] == "decode" else "photograph to caption"
    batch = "alone" if table["batch"] == 1 else f"batch {table['batch']}"
    axis.set_title(f"{MODELS[table['model']].title}\n{what}, {batch}", fontsize=9)
    axis.set_xlabel("images/s")


def _colour(name: str) -> str:
    colours = {"torch": ORANGE, "textbook": PURPLE, "openvino": GREEN}
    return next((colour for start, colour in colours.items() if name.startswith(start)), BLUE)
