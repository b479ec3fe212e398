"""Configuration of a training run: one frozen dataclass, checked when it is made.

The command line is made from the same fields (see `options.py`), and `config.json` in a run's
folder holds the effective values. An option that the user does not give comes from the recipe of
the data set (`recipes.py`), else from the defaults below.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from captioner.data.open_dataset import images_problem
from captioner.decoders import DECODERS
from captioner.encoder.config import EncoderConfig
from captioner.options import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    PROBABILITY,
    SHARE,
    Range,
    option,
)
from training.composition import Choices, ComposedOptions, option_of
from training.objectives import OBJECTIVES
from training.objectives.interface import ObjectiveOptions
from training.recipes import RECIPES

ENCODER_OPTIONS = {  # a captioner's training's, by the names that `EncoderConfig` has for them
    "name": "encoder",
    "weights": "encoder_weights",
    "stage": "encoder_stage",
    **{name: name for name in ("grid", "image_size", "image_mode")},
}
_AREA = Range(
    "the share of the area that is kept lies above 0 and is at most 1", lambda value: 0 < value <= 1
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ComposedOptions):
    # Data
    data: tuple[str, ...] = option(
        (),
        "coco, shapes (the built-in sample), a folder with one dataset*.json, or such a file; "
        "several become one; default: data/coco where it exists, else shapes",
        metavar="DATA",
        changeable=True,
    )
    images: tuple[str, ...] = option(
        (),
        "folder of the images, where it is not beside the JSON; of several data sets one for "
        "each, '' where it is",
        metavar="FOLDER",
        changeable=True,
    )
    data_weights: tuple[float, ...] = option(
        (),
        "how often each training image is drawn in an epoch, a number for each of --data; of a "
        "fraction so many images, others in each epoch; default: once",
        within=ABOVE_ZERO,
        metavar="TIMES",
    )
    captions_without_photographs: tuple[str, ...] = option(
        (),
        "captions to learn from whose photographs are not there, a .tsv, .csv or .json each; "
        "those of images in val and test are left out; needs --attributes",
        metavar="FILE",
        changeable=True,
    )
    alone_weight: float = option(
        1.0,
        "how often each caption without a photograph is drawn in an epoch",
        within=ABOVE_ZERO,
        metavar="TIMES",
    )
    recipe: str | None = option(
        None,
        "settings for what is not given; default: those of the data set",
        choices=tuple(RECIPES),
    )
    restval: bool = option(True, "let the split restval join the training images")
    min_count: int = option(
        5, "how often a word must occur in the training captions to be known", within=AT_LEAST_ONE
    )
    max_caption_length: int = option(
        20, "words of a caption used in training; the rest is cut off", within=AT_LEAST_ONE
    )
    content_words_once: bool = option(
        False,
        "captions of the model hold a word once that is none of English grammar, in validations "
        "and later, unless they are asked for with repeat_words",
    )
    captions_per_image: int = option(
        5, "most captions of an image in one batch", within=AT_LEAST_ONE
    )
    horizontal_flip: bool = option(
        False, "mirror training images at random, and swap left and right in their captions"
    )
    random_crop: float = option(
        1.0,
        "smallest share of a training image's area that a random crop keeps; 1 is no cropping; "
        "needs --fine-tune-encoder",
        within=_AREA,
    )

    augment: bool = option(
        False,
        "change light, contrast, colourfulness, sharpness, ratio and JPEG quality of training "
        "images, and crop them mildly, anew in each epoch; needs --fine-tune-encoder",
    )
    augmented_copies: int = option(
        0,
        "store the features of N copies of each training image that are changed in these ways, "
        "too, and draw one of them or the image itself; for epochs with a frozen encoder",
        within=NOT_NEGATIVE,
    )

    # Encoder
    encoder: str = option_of(EncoderConfig, "name")
    encoder_weights: str = option_of(EncoderConfig, "weights")
    encoder_stage: int | None = option_of(EncoderConfig, "stage")
    grid: int = option_of(EncoderConfig, "grid")
    image_size: int | None = option_of(EncoderConfig, "image_size")
    image_mode: str | None = option_of(EncoderConfig, "image_mode")
    fine_tune_encoder: str = option(
        "none",
        "train the encoder too: all of it, its last N stages, or none",
        metavar="all|N|none",
        bare="all",
    )
    frozen_epochs: int = option(
        0,
        "keep the encoder frozen in the first N epochs, with stored features; then "
        "--fine-tune-encoder applies",
        within=NOT_NEGATIVE,
    )
    encoder_lr: float | None = option(
        None,
        "learning rate of the encoder; default: a tenth of --lr, or --lr without weights",
        within=ABOVE_ZERO,
    )
    feature_store: str | None = option(
        None,
        "folder of the stored features; default: the user's cache folder",
        metavar="PATH",
        changeable=True,
    )

    # Decoder
    decoder: str = option(
        "soft_attention", f"kind of decoder: {' or '.join(DECODERS)}", metavar="NAME"
    )
    start_from: str | None = option(
        None,
        "checkpoint whose weights and vocabulary a new run begins with, for example to fine-tune "
        "its encoder; options of the model come from it",
        metavar="CHECKPOINT",
    )

    # h-detach
    p: float = option(
        0.0,
        "probability that a step's hidden state is detached; 0 is a plain LSTM",
        within=PROBABILITY,
    )
    anneal_epochs: int = option(0, "train the last N epochs without detaching", within=NOT_NEGATIVE)

    # Optimisation
    objective: str = option(
        "cross_entropy", f"what training minimises: {' or '.join(OBJECTIVES)}", metavar="NAME"
    )
    lr: float = option(4e-4, "learning rate of the decoder", within=ABOVE_ZERO)
    lr_schedule: str = option(
        "constant",
        "course of the learning rate after the warm-up",
        choices=("constant", "cosine"),
    )
    warmup_steps: int = option(
        0, "steps in which the learning rate grows from zero", within=NOT_NEGATIVE
    )
    weight_decay: float = option(0.0, "decoupled weight decay of all matrices", within=NOT_NEGATIVE)
    average_decay: float = option(
        0.0,
        "decay of the running average of the weights that is validated and kept; 0 is off",
        within=SHARE,
    )
    clip_norm: float = option(
        0.0, "largest norm of all gradients together; 0 is off", within=NOT_NEGATIVE
    )
    clip_value: float = option(
        0.0, "largest absolute value of one gradient; 0 is off", within=NOT_NEGATIVE
    )
    batch_size: int = option(25, "images in a batch, each with its captions", within=AT_LEAST_ONE)
    epochs: int = option(
        12, "passes over the training images", changeable=True, within=AT_LEAST_ONE
    )
    amp: str = option("off", "arithmetic of the large products", choices=("off", "bf16"))

    # Validation
    validate_every: int = option(
        0, "steps between validations; 0 is once an epoch", within=NOT_NEGATIVE
    )
    beam_size: int = option(1, "beam size of the validations", changeable=True, within=AT_LEAST_ONE)
    gradient_lags: tuple[int, ...] = option(
        (),
        "log at each validation which share of the gradient so many words back comes along the "
        "cell state alone, such as 1 5 10; default: none",
        within=AT_LEAST_ONE,
        metavar="N",
    )
    patience: int = option(
        0,
        "stop after so many validations without a better CIDEr; 0 is never",
        changeable=True,
        within=NOT_NEGATIVE,
    )

    # The machine
    workers: int = option(
        2, "threads that read and decode images", changeable=True, within=AT_LEAST_ONE
    )

    @classmethod
    def choices(cls) -> Choices:
        return {
            "decoder": {name: decoder.Options for name, decoder in DECODERS.items()},
            "objective": {name: objective.Options for name, objective in OBJECTIVES.items()},
        }

    @property
    def trains_encoder(self) -> bool:
        return self.fine_tune_encoder != "none"

    @property
    def trained_stages(self) -> int | None:
        """The number of the encoder's last stages that are trained; None is all of them."""
        return None if self.fine_tune_encoder == "all" else int(self.fine_tune_encoder)

    @property
    def effective_encoder_lr(self) -> float:
        if self.encoder_lr is not None:
            return self.encoder_lr
        return self.lr if self.encoder_weights == "none" else self.lr / 10

    def planned_by_epochs(self) -> Iterable[str]:
        if self.lr_schedule != "constant":
            yield f"the learning rate (--lr-schedule {self.lr_schedule})"
        if self.anneal_epochs:
            yield f"the end of detaching (--anneal-epochs {self.anneal_epochs})"

    def contradictions(self) -> Iterable[str]:
        data_sets = max(1, len(self.data))
        if self.images and len(self.images) != data_sets:
            yield images_problem(len(self.images), data_sets)
        if self.data_weights and len(self.data_weights) != data_sets:
            yield (
                f"--data-weights has {len(self.data_weights)} numbers for {data_sets} data sets; "
                "give one for each of --data, in its order"
            )
        stages = self.fine_tune_encoder
        if stages not in ("all", "none") and not (stages.isdecimal() and int(stages) >= 1):
            yield (
                f"--fine-tune-encoder is {stages!r}; it can be all, none, or the number of last "
                "stages to train"
            )
        if self.clip_norm and self.clip_value:
            yield (
                f"--clip-norm is {self.clip_norm} and --clip-value is {self.clip_value}; "
                "give one of them, and 0 for the other"
            )
        if self.frozen_epochs and (not self.trains_encoder or self.frozen_epochs >= self.epochs):
            yield (
                f"--frozen-epochs is {self.frozen_epochs} of {self.epochs} epochs with "
                f"--fine-tune-encoder {stages}; leave at least one epoch to fine-tune it"
            )
        if self.random_crop < 1 and not self.trains_encoder:
            yield (
                "--random-crop needs --fine-tune-encoder: a frozen encoder's features are stored "
                "once, for whole images"
            )
        if self.augment and not self.trains_encoder:
            yield (
                "--augment needs --fine-tune-encoder: a frozen encoder's features are stored; "
                "give --augmented-copies for those of changed images"
            )
        if self.augmented_copies and self.trains_encoder and not self.frozen_epochs:
            yield (
                "--augmented-copies are stored features, and with --fine-tune-encoder none are "
                "used; give --augment, or --frozen-epochs"
            )
        if self.p > 0 and self.anneal_epochs >= self.epochs:
            yield (
                f"--anneal-epochs is {self.anneal_epochs} of {self.epochs} epochs, so --p "
                f"{self.p} would never be in force; leave at least one epoch with it"
            )
        if OBJECTIVES[self.objective].needs_trained_model and not self.start_from:
            yield (
                f"--objective {self.objective} goes on from a trained model; give its checkpoint "
                "by --start-from, such as RUN/best"
            )
        if isinstance(self, ObjectiveOptions):
            if self.captions_without_photographs and not self.uses_captions_alone:
                yield (
                    f"--captions-without-photographs teach nothing by --objective {self.objective} "
                    "alone; leave them out, or give --cross-entropy-weight above 0"
                )
            yield from self.contradictions_with(DECODERS[self.decoder])
