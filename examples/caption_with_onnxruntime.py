"""Caption photographs from a deployable folder with numpy, Pillow and ONNX Runtime alone.

ORT_DISABLE_TELEMETRY=1 python examples/caption_with_onnxruntime.py FOLDER PHOTO...
Greedy search: `captioner caption --beam-size 1 --repeat-words --attribute-threshold 1`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

START, END, MOST_WORDS = 1, 2, 20


def main() -> None:
    folder, *photographs = map(Path, sys.argv[1:] or sys.exit(__doc__))
    seen = json.loads((folder / "deployable.json").read_text())["preprocessing"]
    words = json.loads((folder / "vocabulary.json").read_text())["words"]
    names = ("encoder.onnx", "prepare.onnx", "step.onnx")
    encoder, prepare, step = (onnxruntime.InferenceSession(folder / name) for name in names)
    for photograph in photographs:
        pixels = np.array(resized(Image.open(photograph), seen))[np.newaxis]
        images = run(prepare, run(encoder, {"pixels": pixels}))
        given = {"parents": np.array([[0]]), "count": np.array([2]), "wanted": np.array([[END]])}
        caption, word = [], START
        while len(caption) < MOST_WORDS:
            found = run(step, {**images, **given, "words": np.array([[word]])})
            images |= {f"state.{k[5:]}": v for k, v in found.items() if k.startswith("next.")}
            first, second = found["candidates"][0, 0, :2]
            word = int(second if first == END and not caption else first)  # never without a word
            if word == END:
                break
            caption.append(word)
        print(photograph, " ".join(words[word] for word in caption), sep="\t")


def run(graph, values):
    """Return the outputs of a graph by name; it takes of the values what it reads."""
    names = [one.name for one in graph.get_outputs()]
    given = {one.name: values[one.name] for one in graph.get_inputs()}
    return dict(zip(names, graph.run(names, given), strict=True))


def resized(image, seen):
    """Return the photograph upright, in colour and at the size that the encoder sees."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    side, before = seen["image_size"], int(seen["image_size"] / seen["crop_fraction"])
    least = min(image.size) if seen["image_mode"] == "crop" else image.size  # else "squash"
    size = np.int64(before * np.array(image.size) / least)
    image = image.resize([int(n) for n in size], Image.Resampling[seen["interpolation"].upper()])
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


if __name__ == "__main__":
    main()
