"""Parts of a captioner's training, built from its configuration: data, model, validation.

Anything wrong with them is found here, before any long work.
"""

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captioner.checkpoint import Checkpoint
from captioner.data.captions_alone import CaptionsAlone, read_captions_alone, without_those_of
from captioner.data.joint import JointDataset
from captioner.data.karpathy import CaptionedImage
from captioner.decoders import Decoder, build_decoder
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.encoder.interface import Encoder
from captioner.engines.torch_engine import TorchEngine
from captioner.errors import DataError, OptionError
from captioner.files import file_hash
from captioner.search_config import SearchConfig
from captioner.vocabulary import Vocabulary
from training.attributes import make_ready
from training.batches import EpochBatches
from training.captions_alone import AloneBatches, MixedBatches
from training.config import ENCODER_OPTIONS, TrainingConfig
from training.content_words import with_content_words_once
from training.distributed import Ranks
from training.feature_sources import SourceSchedule
from training.randomness import derived_generator
from training.run_folder import RunFolder
from training.validation import Validator

Announce = Callable[[str], None]

_VALIDATION_BATCH = 50  # images


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a captioner's training; validator and sources are to be closed in the end."""

    config: TrainingConfig
    dataset: JointDataset
    vocabulary: Vocabulary
    engine: TorchEngine  # with the encoder and the decoder
    encoder_parameters: list[nn.Parameter]  # those that are trained
    batches: EpochBatches | MixedBatches
    validator: Validator
    sources: Sequence[SourceSchedule]  # of training and of validation
    ranks: Ranks  # that train together
    facts: dict[str, Any]  # counts and sizes, for config.json and for the reader


def build_training_setup(
    config: TrainingConfig,
    dataset: JointDataset,
    checkpoint: Checkpoint | None,
    folder: RunFolder,
    announce: Announce,
    ranks: Ranks,
) -> TrainingSetup:
    """Build the parts of a run anew, or with the modules and the vocabulary of `checkpoint`.

    All of `ranks` build them together: they share out the computation of features.

    Raises:
        CaptionerError: something is missing or does not fit; see the class for what.
    """
    if config.batch_size < ranks.size:
        raise OptionError(
            f"--batch-size is {config.batch_size} for {ranks.size} processes, which share out each "
            f"batch; give at least {ranks.size}, or start fewer processes"
        )
    _check_that_all_have(dataset, ranks)
    train, val = dataset.split("train"), dataset.split("val")
    _check_splits(dataset, train, val)
    alone = _captions_alone(config, dataset, announce)
    if checkpoint:
        vocabulary, encoder = checkpoint.vocabulary, checkpoint.encoder
        decoder = checkpoint.decoder
    else:
        vocabulary = Vocabulary.build(
            (tokens for captions in (train, alone) for one in captions for tokens in one.tokens),
            min_count=config.min_count,
        )
        of_encoder = {name: getattr(config, option) for name, option in ENCODER_OPTIONS.items()}
        encoder = create_encoder(
            EncoderConfig(**of_encoder), derived_generator(config.seed, "encoder")
        )
        decoder = build_decoder(
            config.decoder,
            config.part("decoder"),
            vocabulary_size=len(vocabulary),
            feature_size=encoder.feature_size,
            generator=derived_generator(config.seed, "decoder"),
        )
    if config.content_words_once:
        vocabulary = with_content_words_once(vocabulary)
    decoder.begin_training(derived_generator(config.seed, "training part"))
    facts = _describe_data(dataset, train, val, vocabulary, config, announce)
    engine = TorchEngine(encoder, decoder, ranks.device(config.device))
    encoder_parameters = encoder.trainable(config.trained_stages) if config.trains_encoder else []
    facts |= _describe_modules(engine, encoder_parameters, config, announce)
    if ranks.is_first:
        folder.check_free_space(_checkpoint_bytes(encoder, decoder, encoder_parameters))
    ranks.spread(encoder)

    sources = [
        SourceSchedule.open(
            engine,
            dataset.split_by_set(split),
            config,
            announce,
            ranks,
            is_augmented=split == "train",
        )
        for split in ("train", "val")
    ]
    detector = decoder.attribute_detector
    if detector is not None and checkpoint is None:
        facts |= make_ready(
            detector,
            decoder.options.attributes,
            encoder=encoder,
            vocabulary=vocabulary,
            images=(train, val),
            sources=[source.of_epoch(0) for source in sources],
            seed=config.seed,
            announce=announce,
        )
    ranks.spread(decoder)
    batches: EpochBatches | MixedBatches
    batches = photographs = EpochBatches(
        train,
        vocabulary,
        sources[0].of_epoch,
        config,
        device=engine.device,
        missing=sources[0].known_missing,
        set_sizes=[len(images) for images in dataset.split_by_set("train")],
        ranks=ranks,
    )
    skipped = len(train) - photographs.num_images
    if skipped:
        announce(
            f"left out of training: {skipped:,} images ({photographs.without_caption:,} without a "
            f"caption, {skipped - photographs.without_caption:,} broken)"
        )
    if config.data_weights:
        announce(f"an epoch draws {photographs.images_per_epoch:,} images, by --data-weights")
    if alone:
        tokens = [one.tokens for one in alone]
        batches = _mixed(photographs, tokens, vocabulary, engine, config, announce, ranks)
    search = SearchConfig(beam_size=config.beam_size)
    return TrainingSetup(
        config,
        dataset,
        vocabulary,
        engine,
        encoder_parameters,
        batches,
        Validator(val, vocabulary, search, batch_size=_VALIDATION_BATCH),
        sources,
        ranks,
        facts,
    )


def _mixed(
    photographs: EpochBatches,
    alone: Sequence[Sequence[Sequence[str]]],
    vocabulary: Vocabulary,
    engine: TorchEngine,
    config: TrainingConfig,
    announce: Announce,
    ranks: Ranks,
) -> MixedBatches:
    """Return batches of photographs mixed with those of captions without one."""
    decoder = engine.decoder
    if decoder.attribute_detector is None:
        raise OptionError(
            "--captions-without-photographs needs attributes that stand in for photographs, and "
            f"{decoder.name} reads none here; give --attributes 5"
        )
    of_captions = AloneBatches(
        alone,
        vocabulary,
        decoder.attribute_detector,
        config,
        count=decoder.options.attributes or decoder.attribute_detector.num_attributes,
        feature_size=engine.encoder.feature_size,
        device=engine.device,
        ranks=ranks,
    )
    announce(
        f"captions without photographs: {len(of_captions):,} name an attribute, "
        f"{of_captions.left_out:,} are left out"
    )
    return MixedBatches(photographs, of_captions, config.seed)


def _check_that_all_have(dataset: JointDataset, ranks: Ranks) -> None:
    """Raise DataError unless all processes read the same data sets."""
    own = [file_hash(part.json_path) for part in dataset.parts] if ranks.size > 1 else []
    first, *others = ranks.gather((socket.gethostname(), str(dataset.paths), own))
    for rank, (host, paths, hashes) in enumerate(others, 1):
        if hashes != first[2]:
            raise DataError(
                f"process {rank} reads {paths} on {host}, whose content is not that of {first[1]} "
                f"on {first[0]}; give all machines the same data"
            )


def _check_splits(
    dataset: JointDataset, train: list[CaptionedImage], val: list[CaptionedImage]
) -> None:
    for name, images in (("train", train), ("val", val)):
        if not any(any(image.captions) for image in images):
            raise DataError(
                f"{dataset.paths} has no captioned image in the split {name!r}; "
                "training needs train and val (a table can be split by: captioner data convert)"
            )


def _captions_alone(
    config: TrainingConfig, dataset: JointDataset, announce: Announce
) -> list[CaptionsAlone]:
    """Return the captions without photographs, but for those of images that are judged by."""
    read = [
        one
        for path in config.captions_without_photographs
        for one in read_captions_alone(Path(path))
    ]
    kept = without_those_of([*dataset.split("val"), *dataset.split("test")], read)
    if read:
        captions = sum(len(one.captions) for one in kept)
        announce(
            f"captions without photographs: {captions:,} of {len(kept):,} images; "
            f"{len(read) - len(kept):,} images of val and test are left out"
        )
    return kept


def _describe_data(
    dataset: JointDataset,
    train: list[CaptionedImage],
    val: list[CaptionedImage],
    vocabulary: Vocabulary,
    config: TrainingConfig,
    announce: Announce,
) -> dict[str, Any]:
    coverage = vocabulary.coverage(tokens for image in val for tokens in image.tokens)
    announce(
        f"vocabulary: {len(vocabulary):,} entries (words with count >= {config.min_count} in the "
        f"training captions), {coverage:.1%} of the words of val"
    )
    counts_by_set = {
        name: part.counts() for name, part in zip(dataset.names, dataset.parts, strict=True)
    }
    return {
        "counts": dataset.counts(),
        **({"counts_by_set": counts_by_set} if dataset.is_several else {}),
        "training_captions": sum(len(image.captions) for image in train),
        "vocabulary_size": len(vocabulary),
        "coverage_val": coverage,
    }


def _describe_modules(
    engine: TorchEngine,
    encoder_parameters: list[nn.Parameter],
    config: TrainingConfig,
    announce: Announce,
) -> dict[str, Any]:
    in_encoder = sum(parameter.numel() for parameter in engine.encoder.parameters())
    trained = sum(parameter.numel() for parameter in encoder_parameters)
    in_decoder, for_training = _decoder_parameters(engine.decoder)
    state = f"{trained:,} of them trained" if trained else "frozen"
    announce(f"encoder: {config.encoder}, {in_encoder:,} parameters, {state}")
    announce(f"decoder: {config.decoder}, {in_decoder:,} parameters, p = {config.p:g}")
    if for_training:
        announce(f"decoder: {for_training:,} parameters more that only training needs")
    announce(f"device: {engine.device}, {torch.get_num_threads()} threads")
    return {
        "encoder_parameters": in_encoder,
        "encoder_parameters_trained": trained,
        "decoder_parameters": in_decoder,
        **({"training_part_parameters": for_training} if for_training else {}),
    }


def _decoder_parameters(decoder: Decoder) -> tuple[int, int]:
    """Return how many parameters caption, and how many more there are for training."""
    part = decoder.training_part
    for_training = sum(parameter.numel() for parameter in part.parameters()) if part else 0
    return sum(parameter.numel() for parameter in decoder.parameters()) - for_training, for_training


def _checkpoint_bytes(
    encoder: Encoder, decoder: Decoder, encoder_parameters: list[nn.Parameter]
) -> int:
    """Return about what best/, last/ and one more that is being written take."""

    def size(parameters: Iterable[nn.Parameter]) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    trained = size(decoder.parameters()) + size(encoder_parameters)
    moments_and_average = 3 * trained
    return 3 * (size(encoder.parameters()) + size(decoder.parameters())) + 2 * moments_and_average
