"""Demo: what the model in the box says of photographs; then a captioner of the built-in sample.

The latter is trained and scored, and its captions of test images are drawn.

The steps are the commands that a user would type, each shown before it runs. Every demo gets a new
folder under `runs/`. Options are passed to the training script: `demo.py --epochs 2`.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import captioner
from captioner.data.open_dataset import open_dataset
from captioner.pictures import Sample, draw_samples
from captioner.program import run_program
from captioner.progress import duration

ROOT = Path(__file__).resolve().parent.parent
_DRAWN = 12  # images in the picture, spread over the test split


def demo(training_options: Sequence[str]) -> int:
    """Run the demo and return the exit status of the first step that failed, else 0."""
    started = time.monotonic()
    run = new_run_folder(ROOT / "runs")
    best, scores, captions = run / "best", run / "scores_test.json", run / "captions_test.json"
    training = "training/train_coco.py --p 0.4 --data shapes --out"
    evaluation = "training/evaluate_coco.py --split test --checkpoint"
    photographs = ROOT / "runs" / "examples.png"
    print("What the model in the box says of photographs that it has never seen:")
    if status := shown_and_run(["scripts/draw_examples.py", "--out", photographs]):
        return status
    print("\nNow a model is trained on a built-in sample of coloured shapes, which takes minutes.")
    steps: list[list[str | Path]] = [
        [*training.split(), run, *training_options],
        [*evaluation.split(), best, "--out", scores, "--captions-out", captions],
    ]
    for step in steps:
        if status := shown_and_run(step):
            return status
    picture = draw_test_images(best, run / "captions_test.png")
    print(
        f"\nThe demo took {duration(time.monotonic() - started)}. What the model in the box says "
        f"is in {relative(photographs)}. In {relative(run)}:\n"
        f"  {picture.name:<22}what it says about {_DRAWN} test images, and what people would\n"
        f"  {scores.name:<22}the scores above\n"
        f"  {captions.name:<22}the captions of all test images\n"
        f"  {'curves.png':<22}loss and scores over the training\n"
        f"  {'best':<22}the captioner itself; caption an image with\n"
        f"    .venv/bin/captioner caption IMAGE --checkpoint {relative(best)}"
    )
    return 0


def new_run_folder(runs: Path) -> Path:
    """Return a folder under `runs` that no earlier demo has used."""
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    candidates = (runs / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 100))))
    return next(path for path in candidates if not path.exists())


def shown_and_run(step: Sequence[str | Path]) -> int:
    """Show a command as a user would type it, run it, and return its exit status."""
    shown = [relative(word) if isinstance(word, Path) else word for word in step]
    print(f"\n$ python {shlex.join(shown)}", flush=True)
    return subprocess.run([sys.executable, *map(str, step)], cwd=ROOT, check=False).returncode


def draw_test_images(checkpoint: Path, out: Path) -> Path:
    """Caption images spread over the test split into one picture, and return where it lies."""
    images = open_dataset("shapes", announce=lambda _: None).split("test")
    chosen = images[:: max(1, len(images) // _DRAWN)][:_DRAWN]
    captions = captioner.load(checkpoint).caption([image.path for image in chosen])
    samples = [
        Sample(image_path=image.path, generated=caption.text, references=image.captions)
        for image, caption in zip(chosen, captions, strict=True)
    ]
    draw_samples(samples, out)
    return out


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(run_program("demo.py", lambda: demo(sys.argv[1:])))
