"""Time the runtime against PyTorch, earlier commits and a textbook, taking turns in one run.

Contestants are processes of their own: the code of earlier commits (`--before`), a textbook's
search, this code with PyTorch, and each engine and precision of deployable folders. Beside them
stand the limits: the decoder's weights read once a step, and its matrix products alone. The models
are made once, in `--work`; figures go to inference.json, part by part, so a run can be interrupted
and taken up, or be made of several short ones in quiet moments.

    python scripts/bench_inference.py --before ../before --weights weights --out docs/results
    python scripts/bench_inference.py --parts decoder --models resnet152 --again
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inference.measure import Run
from inference.options import PAGE_END, PAGE_START, PARTS, InferenceOptions
from inference.report import draw, markdown

from captioner.errors import DataError
from captioner.files import read_json, write_atomically, write_json
from captioner.flags import options_parser
from captioner.program import run_program

FORMAT = 1  # of inference.json


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(InferenceOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_inference.py",
        lambda: bench(InferenceOptions.from_json(vars(parser.parse_args(argv)))),
    )


def bench(options: InferenceOptions) -> None:
    if options.quick:
        options = replace(
            options, models=("tiny",), batches=(1, 2), rounds=1, seconds=0.01, again=True
        )
    file = options.out / "inference.json"
    parts: dict[str, Any] = {}
    if file.exists():
        stored = read_json(file, "figures of an earlier run", DataError)
        parts = stored["parts"] if stored.get("format") == FORMAT else {}
    run = Run(options)
    if options.prepare:
        run.prepare()
        return
    for name in PARTS:
        if name not in options.parts:
            continue
        if name in parts and not options.again:
            print(f"{name}: kept from {parts[name]['when']}, --again measures anew")
            continue
        parts[name] = run.part(name)
        parts = {part: parts[part] for part in PARTS if part in parts}
        write_json(file, {"format": FORMAT, "parts": parts})
    draw(parts, options.out / "inference.png")
    write_page(options.out / "inference.md", markdown(parts))
    print(f"written: {file}, inference.md and inference.png beside it")


def write_page(path: Path, tables: str, marks: tuple[str, str] = (PAGE_START, PAGE_END)) -> None:
    """Put the tables between their marks on the page, which is begun where there is none."""
    start, end = marks
    text = path.read_text(encoding="utf-8") if path.exists() else f"{start}\n{end}\n"
    before, _, rest = text.partition(start)
    after = rest.partition(end)[2]
    page = f"{before}{start}\n\n{tables}\n{end}{after}"
    write_atomically(path, page.encode())


if __name__ == "__main__":
    sys.exit(main())
