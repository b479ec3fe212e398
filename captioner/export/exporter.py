"""The export of a checkpoint: write graphs, check them, choose among precisions, write the folder.

Parts that a deployable captioner may be made of are written to a folder for trials. What is left
when all are checked, judged and timed is copied to its place, which holds it whole or not at all.
"""

import os
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from captioner import __version__, graphs
from captioner.checkpoint import MODEL, Checkpoint, load_checkpoint
from captioner.checkpoint_folders import find_checkpoint
from captioner.confidence import CONFIDENCE, read_confidence_curve
from captioner.deployable import DECODER, ENCODER, VOCABULARY
from captioner.engines import DEPLOYABLE, engine_class
from captioner.engines.torch_engine import TorchEngine
from captioner.errors import CheckpointError, OptionError, StorageError
from captioner.export.checks import (
    ExportError,
    agreement,
    captions_of,
    check_log_probs,
    synthetic_photographs,
)
from captioner.export.config import FLOAT32, ExportOptions
from captioner.export.graphs import write_decoder, write_encoder
from captioner.export.parts import Assembler, Part, copy_parts, facts_of
from captioner.export.photographs import Announce, Photographs, encode_files
from captioner.export.precision import Choice, PrecisionChooser
from captioner.files import temporary_folder, write_json
from captioner.hashed_folder import HASHES, hashed_folder_written_aside, read_hashes
from captioner.search_config import SearchConfig

MOST_DIFFERENT = 0.001  # of the captions of validation photographs, in float32
_TOOLS = ("torch", "onnx", "onnxruntime")


def export_captioner(
    folder: Path,
    options: ExportOptions,
    *,
    announce: Announce,
    warn: Announce | None = None,
    show_progress: bool = False,
) -> Path:
    """Write the checkpoint in `folder`, or the best one of a run, as a deployable folder.

    `announce` takes lines for the reader: what was checked, timed and chosen; `warn`, if it is
    given, those that name damaged photographs. What else lies in an earlier deployable folder stays
    there. Returns the folder.

    Raises:
        CheckpointError: there is no sound checkpoint.
        OptionError: the options contradict each other, or the model cannot be exported.
        DataError: the photographs that a precision needs are not there, or cannot judge it.
        ExportError: the graphs do not compute what the checkpoint computes.
        StorageError: the disk is full or not writable.
    """
    source = find_checkpoint(Path(folder))
    checkpoint = load_checkpoint(source)
    out = source.parent / "deployable" if options.out is None else options.out
    _refuse(checkpoint, out)
    if options.engine is not None:
        engine_class(options.engine)  # it may not be installed: better said now than in minutes
    read = checkpoint.encoder.preprocessing.read
    photographs = Photographs.find(options, checkpoint.summary, read, announce, warn or announce)
    with temporary_folder("captioner-export-") as work:
        assembler = Assembler(checkpoint, work, options.threads)
        choice = Choice(*_float32_parts(checkpoint, assembler))
        checks = _checks(checkpoint, assembler, choice, photographs, announce, show_progress)
        if options.precisions != {FLOAT32}:
            choice = PrecisionChooser(
                checkpoint,
                choice,
                assembler,
                photographs,
                options,
                announce,
                show_progress=show_progress,
            ).choose()
        elif options.engine is not None:
            choice = replace(choice, encoder=replace(choice.encoder, engine=options.engine))
        with hashed_folder_written_aside(out, keeps_other_files=True) as aside:
            copy_parts(aside, choice.encoder, choice.decoder)
            checkpoint.vocabulary.save(aside / VOCABULARY)
            facts = facts_of(checkpoint, choice.encoder, choice.decoder)
            made_with = {name: version(name) for name in _TOOLS if find_spec(name)}
            made_with["captioner"] = __version__  # which may run without being installed
            facts |= {"checks": checks, "choice": choice.to_json(), "made_with": made_with}
            write_json(aside / DEPLOYABLE, facts)
            curve = read_confidence_curve(source)
            if curve is not None:
                write_json(aside / CONFIDENCE, curve.to_json())
    announce(_about_confidence(curve is not None, out))
    size = sum((out / name).stat().st_size for name in (HASHES, *read_hashes(out, ())))
    announce(f"{out}: {choice.encoder}, {choice.decoder}, {size / 1e6:.1f} MB in all")
    return out


def _about_confidence(is_carried_over: bool, out: Path) -> str:
    fit = f"captioner calibrate {out} --data DATA"
    if is_carried_over:
        return f"confidence: the checkpoint's curve; {fit} fits one to the exported precision"
    return f"confidence: none, the checkpoint has no curve; {fit} fits one"


def _refuse(checkpoint: Checkpoint, out: Path) -> None:
    preprocessing = checkpoint.encoder.preprocessing
    if preprocessing.image_mode == "whole":
        raise OptionError(
            "image_mode of the checkpoint is 'whole', whose pictures differ in size, and graphs "
            "are made for one size: train with --image-mode crop or squash, or run the checkpoint "
            "by torch"
        )
    if (out / MODEL).exists():
        raise OptionError(f"--out is {out}, which holds a checkpoint; choose another folder")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _is_ours(out))):
        raise OptionError(
            f"--out is {out}, which exists and is no deployable folder; choose another name"
        )
    if _is_ours(out):
        try:
            read_hashes(out, ())
        except CheckpointError as problem:
            raise OptionError(
                f"--out is {out}, whose {HASHES} does not say which files an export wrote; choose "
                "another name, or remove it"
            ) from problem
    place = next(one for one in out.resolve().parents if one.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):  # in minutes it would fail
        raise StorageError(
            f"--out is {out}, and {place} cannot be written to; choose another place"
        )


def _is_ours(folder: Path) -> bool:
    return (folder / DEPLOYABLE).is_file()


def _float32_parts(checkpoint: Checkpoint, assembler: Assembler) -> tuple[Part, Part]:
    encoder, decoder = (assembler.new_folder(f"{part}-float32") for part in (ENCODER, DECODER))
    write_encoder(checkpoint.encoder, encoder / graphs.ENCODER)
    write_decoder(
        checkpoint.decoder,
        checkpoint.encoder.grid,
        decoder / graphs.PREPARE,
        decoder / graphs.STEP,
    )
    return (
        Part(of=ENCODER, engine="onnxruntime", precision=FLOAT32, folder=encoder),
        Part(of=DECODER, engine="onnxruntime", precision=FLOAT32, folder=decoder),
    )


def _checks(
    checkpoint: Checkpoint,
    assembler: Assembler,
    parts: Choice,
    photographs: Photographs,
    announce: Announce,
    show_progress: bool,
) -> dict[str, Any]:
    """Compare the graphs in float32 with the checkpoint, and return what was found."""
    reference = TorchEngine(checkpoint.encoder, checkpoint.decoder)
    exported = assembler.engine(parts.encoder, parts.decoder)
    pixels = synthetic_photographs(checkpoint.encoder.preprocessing.image_size)
    gap = check_log_probs(reference, exported, pixels, len(checkpoint.vocabulary))
    announce(f"float32: log-probabilities differ from torch's by {gap:.1e} at most")
    found: dict[str, Any] = {"greatest_log_prob_difference": gap}
    if photographs.validation:
        paths = [image.path for image in photographs.validation]
        captions = [
            captions_of(
                engine,
                encode_files(engine, paths, f"encoding by {name}", show_progress=show_progress),
                SearchConfig(),
            )
            for name, engine in (("torch", reference), ("onnxruntime", exported))
        ]
        agreed = agreement(*captions)
        announce(f"float32: {agreed} from torch's on validation photographs")
        if agreed.different > max(1.0, MOST_DIFFERENT * agreed.images):
            raise ExportError(
                f"the exported graphs do not caption as the checkpoint does: {agreed}; nothing "
                "was written: run the checkpoint by torch, and report the decoder and encoder"
            )
        found["captions"] = asdict(agreed)
    return found
