"""The models and photographs of the benchmark, made once in a folder and found again.

Decoders have random weights, and an encoder has those of its file where there is one. The end
token never wins, so every caption takes all steps. Photographs are drawn: smooth colours, edges
and noise, which compress about as photographs do.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from captioner.errors import CheckpointError, ToolError
from captioner.files import read_json, write_json
from captioner.hashed_folder import hashed_folder_written_aside
from captioner.text import in_one_line
from inference.options import MODELS

END_BIAS = -50.0
INT8_DECODER = "float32, int8 decoder"  # a precision: as an export advises without VNNI
SCALE_AT_FIRST = 0.2  # fifty residual layers then still give numbers of moderate size
DECODER_BEFORE = (
    *("vocabulary_size", "feature_size", "hidden_size", "embedding_size", "dropout"),
    *("attention_size", "feature_embedding_size", "detach_attention"),
)
ENCODER_BEFORE = ("name", "weights", "grid", "image_size", "image_mode", "stage")
PHOTOGRAPHS, SIZE, LARGE = 32, (640, 480), (4000, 3000)  # pixels; the large one has 12 million


def photographs(work: Path) -> list[Path]:
    """Return the paths of the photographs, the large one last."""
    folder = work / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}.jpg" for number in range(PHOTOGRAPHS)]
    for number, path in enumerate(paths):
        if not path.exists():
            drawn(number, SIZE).save(path, quality=90)
    large = work / "large.jpg"
    if not large.exists():
        drawn(0, LARGE).save(large, quality=90)
    return [*paths, large]


def drawn(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return a picture with large and small structures that follows from the seed."""
    generator = np.random.default_rng(seed)
    width, height = size
    colours = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = generator.random(2) * size
        radius = width * 0.08 * generator.random()
        colour = tuple(generator.integers(0, 256, 3).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(width / 800))
    noise = generator.normal(0.0, 6.0, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def checkpoint(work: Path, name: str, weights: Path | None) -> Path:
    """Return the folder of a model's checkpoint."""
    folder = work / name / "checkpoint"
    if (folder / "hashes.json").exists():
        return folder
    import torch

    from captioner.checkpoint import save_checkpoint
    from captioner.decoders import build_decoder
    from captioner.encoder.config import NONE, EncoderConfig
    from captioner.encoder.encoders import create_encoder
    from captioner.vocabulary import END, SPECIAL_TOKENS, Vocabulary

    sizes = MODELS[name]
    file = None if weights is None else weights / f"{sizes.encoder}.safetensors"
    stored = NONE if file is None or not file.exists() else str(file)
    encoder = create_encoder(EncoderConfig(name=sizes.encoder, weights=stored, image_size=224))
    _let_every_layer_count(encoder.network)
    words = [f"word{number}" for number in range(sizes.words - len(SPECIAL_TOKENS))]
    decoder = build_decoder(
        "soft_attention", vocabulary_size=sizes.words, feature_size=encoder.feature_size
    )
    with torch.no_grad():
        decoder.output.bias[END] = END_BIAS  # type: ignore[union-attr, operator]
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        folder,
        encoder=encoder,
        decoder=decoder,
        vocabulary=Vocabulary((*SPECIAL_TOKENS, *words)),
        summary={},
    )
    return folder


def checkpoint_before(work: Path, name: str) -> Path:
    """Return the folder of a model's checkpoint as earlier commits can read it.

    It lacks the options of decoder and encoder that they did not have, which change nothing here.
    """
    source, folder = work / name / "checkpoint", work / name / "checkpoint_before"
    if (folder / "hashes.json").exists():
        return folder
    model = read_json(source / "model.json", "a checkpoint's description", CheckpointError)
    for part, known in ((model["decoder"], DECODER_BEFORE), (model["encoder"], ENCODER_BEFORE)):
        part["config"] = {key: part["config"][key] for key in known}
    with hashed_folder_written_aside(folder) as aside:
        for path in source.iterdir():
            if path.name not in ("hashes.json", "model.json"):
                os.link(path, aside / path.name)
        write_json(aside / "model.json", model)
    return folder


def _let_every_layer_count(network: Any) -> None:
    """Fill scales of zero, with which some networks begin their training."""
    import torch

    with torch.no_grad():
        for name, scale in network.named_parameters():
            if name.endswith("weight") and scale.ndim == 1 and not scale.any():
                scale.fill_(SCALE_AT_FIRST)


def deployable(work: Path, name: str, precision: str, engine: str) -> Path:
    """Return the deployable folder of a model, which `captioner export` makes of its checkpoint.

    int8 is calibrated on the photographs, and no caption is judged.

    Raises:
        ToolError: the export failed; the message holds what it said.
    """
    folder = work / name / f"{engine}-{precision.replace(', ', '-').replace(' ', '-')}"
    if (folder / "hashes.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "captioner", "export", str(work / name / "checkpoint")]
    of_all = "int8" if precision == INT8_DECODER else precision
    command += ["--out", str(folder), "--precision", of_all, "--engine", engine]
    if precision == INT8_DECODER:
        command += ["--encoder-precision", "float32"]
    if precision != "float32":
        command += ["--calibration", str(work / "photographs"), "--allow-loss"]
        command += ["--calibration-images", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    folder.with_suffix(".log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        last = in_one_line((done.stderr.strip().splitlines() or ["nothing"])[-1])
        raise ToolError(f"export of {name} to {engine}, {precision}, failed: {last[:300]}")
    return folder
