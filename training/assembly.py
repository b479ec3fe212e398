"""What a run consists of, built from its configuration: data, encoder, decoder, validation.

Whatever can be wrong with them is found here, before any long work.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captioner.checkpoint import Checkpoint
from captioner.data.karpathy import CaptionDataset, CaptionedImage
from captioner.decoders import Decoder, build_decoder, decoder_options
from captioner.devices import choose_device
from captioner.encoder.store import FeatureStore
from captioner.encoder.timm_encoder import EncoderConfig, ImageEncoder
from captioner.errors import DataError
from captioner.search_config import SearchConfig
from captioner.vocabulary import Vocabulary
from training.batches import EpochBatches
from training.config import TrainingConfig
from training.feature_sources import ImageSource, LiveImages, SourceSchedule, StoredFeatures
from training.randomness import derived_generator
from training.run_folder import RunFolder
from training.validation import Validator

Announce = Callable[[str], None]

_VALIDATION_BATCH = 50  # images


@dataclass(frozen=True)
class Parts:
    """Everything that a trainer moves or asks."""

    config: TrainingConfig
    dataset: CaptionDataset
    device: torch.device
    vocabulary: Vocabulary
    encoder: ImageEncoder
    encoder_parameters: list[nn.Parameter]  # those that are trained
    decoder: Decoder
    batches: EpochBatches
    validator: Validator
    validation_source: Callable[[int], ImageSource]  # by the epoch last trained in
    facts: dict[str, Any]  # counts and sizes, for config.json and for the reader


def assemble(
    config: TrainingConfig,
    dataset: CaptionDataset,
    checkpoint: Checkpoint | None,
    folder: RunFolder,
    announce: Announce,
) -> Parts:
    """Build the parts of a run anew, or with the modules and the vocabulary of `checkpoint`.

    Raises:
        CaptionerError: something is missing or does not fit; see the class for what.
    """
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    train, val = dataset.split("train"), dataset.split("val")
    _check_splits(dataset, train, val)
    vocabulary = checkpoint.vocabulary if checkpoint else _vocabulary(train, config)
    facts = _describe_data(dataset, train, val, vocabulary, config, announce)

    encoder = checkpoint.encoder if checkpoint else _new_encoder(config)
    encoder.to(device)
    decoder = checkpoint.decoder if checkpoint else _new_decoder(config, encoder, vocabulary)
    decoder.to(device)
    encoder_parameters = encoder.trainable(config.trained_stages) if config.trains_encoder else []
    facts |= _describe_modules(encoder, decoder, encoder_parameters, config, device, announce)
    folder.check_free_space(_checkpoint_bytes(encoder, decoder, encoder_parameters))

    sources = _sources(encoder, train, config, device, announce, augmented=True)
    batches = EpochBatches(
        train,
        vocabulary,
        sources.of_epoch,
        config,
        device=device,
        missing=sources.known_missing,
    )
    skipped = len(train) - batches.num_images
    if skipped:
        announce(
            f"left out of training: {skipped:,} images ({batches.without_caption:,} without a "
            f"caption, {skipped - batches.without_caption:,} broken)"
        )
    validator = Validator(
        val,
        vocabulary,
        SearchConfig(beam_size=config.beam_size),
        batch_size=_VALIDATION_BATCH,
    )
    return Parts(
        config=config,
        dataset=dataset,
        device=device,
        vocabulary=vocabulary,
        encoder=encoder,
        encoder_parameters=encoder_parameters,
        decoder=decoder,
        batches=batches,
        validator=validator,
        validation_source=_sources(
            encoder, val, config, device, announce, augmented=False
        ).of_epoch,
        facts=facts,
    )


def _check_splits(
    dataset: CaptionDataset, train: list[CaptionedImage], val: list[CaptionedImage]
) -> None:
    for name, images in (("train", train), ("val", val)):
        if not any(any(image.captions) for image in images):
            raise DataError(
                f"{dataset.json_path} has no captioned image in the split {name!r}; "
                "training needs train and val (a table can be split by: captioner data convert)"
            )


def _vocabulary(train: list[CaptionedImage], config: TrainingConfig) -> Vocabulary:
    return Vocabulary.build(
        (tokens for image in train for tokens in image.tokens), min_count=config.min_count
    )


def _new_encoder(config: TrainingConfig) -> ImageEncoder:
    return ImageEncoder.create(
        EncoderConfig(
            name=config.encoder,
            weights=config.encoder_weights,
            grid=config.grid,
            image_size=config.image_size,
            image_mode=config.image_mode,
            stage=config.encoder_stage,
        ),
        derived_generator(config.seed, "encoder"),
    )


def _new_decoder(config: TrainingConfig, encoder: ImageEncoder, vocabulary: Vocabulary) -> Decoder:
    return build_decoder(
        config.decoder,
        decoder_options(config.decoder, config.to_json()),
        vocabulary_size=len(vocabulary),
        feature_size=encoder.feature_size,
        generator=derived_generator(config.seed, "decoder"),
    )


def _sources(
    encoder: ImageEncoder,
    images: list[CaptionedImage],
    config: TrainingConfig,
    device: torch.device,
    announce: Announce,
    *,
    augmented: bool,
) -> SourceSchedule:
    live = None
    if config.trains_encoder:
        live = LiveImages(
            encoder,
            images,
            workers=config.workers,
            device=device,
            amp=config.amp,
            announce=announce,
        )
        if not config.frozen_epochs:
            return SourceSchedule(None, live, 0)

    def store(mirrored: bool) -> FeatureStore:
        return FeatureStore.open(
            Path(config.feature_store) if config.feature_store else None,
            encoder,
            images,
            mirrored=mirrored,
            workers=config.workers,
            progress=True,
            announce=announce,
        )

    mirrored = store(mirrored=True) if augmented and config.horizontal_flip else None
    stored = StoredFeatures(store(mirrored=False), mirrored, device)
    return SourceSchedule(stored, live, config.frozen_epochs)


def _describe_data(
    dataset: CaptionDataset,
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
    return {
        "counts": dataset.counts(),
        "training_captions": sum(len(image.captions) for image in train),
        "vocabulary_size": len(vocabulary),
        "coverage_val": coverage,
    }


def _describe_modules(
    encoder: ImageEncoder,
    decoder: Decoder,
    encoder_parameters: list[nn.Parameter],
    config: TrainingConfig,
    device: torch.device,
    announce: Announce,
) -> dict[str, Any]:
    in_encoder = sum(parameter.numel() for parameter in encoder.parameters())
    trained = sum(parameter.numel() for parameter in encoder_parameters)
    in_decoder = sum(parameter.numel() for parameter in decoder.parameters())
    state = f"{trained:,} of them trained" if trained else "frozen"
    announce(f"encoder: {config.encoder}, {in_encoder:,} parameters, {state}")
    announce(f"decoder: {config.decoder}, {in_decoder:,} parameters, p = {config.p:g}")
    announce(f"device: {device}, {torch.get_num_threads()} threads")
    return {
        "encoder_parameters": in_encoder,
        "encoder_parameters_trained": trained,
        "decoder_parameters": in_decoder,
    }


def _checkpoint_bytes(
    encoder: ImageEncoder, decoder: Decoder, encoder_parameters: list[nn.Parameter]
) -> int:
    """Return about what best/, last/ and one more that is being written take."""

    def size(parameters: Iterable[nn.Parameter]) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    trained = size(decoder.parameters()) + size(encoder_parameters)
    moments_and_average = 3 * trained
    return 3 * (size(encoder.parameters()) + size(decoder.parameters())) + 2 * moments_and_average
