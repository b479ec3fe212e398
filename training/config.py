"""Every choice of a training run: one frozen dataclass, checked when it is made.

The command line is made from the same fields (see `arguments.py`), and `config.json` in a run's
folder holds the effective values. What a user does not give is filled in by the recipe of the
data set (`recipes.py`), else by the defaults below.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from captioner.errors import OptionError


def option(
    default: Any,
    description: str,
    *,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    bare: str | None = None,
    changeable: bool = False,
) -> Any:
    """Return a dataclass field that also knows how to appear on the command line.

    `bare` is the value of a flag given without one; `changeable` options may differ when a run
    is resumed.
    """
    metadata = {
        "description": description,
        "choices": tuple(choices),
        "metavar": metavar,
        "bare": bare,
        "changeable": changeable,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    # Data
    data: str | None = option(
        None,
        "coco, shapes (the built-in sample), a folder with one dataset*.json, or such a file; "
        "default: data/coco where it exists, else shapes",
        metavar="DATA",
        changeable=True,
    )
    images: str | None = option(
        None, "folder of the images, where it is not beside the JSON", changeable=True
    )
    restval: bool = option(True, "let the split restval join the training images")
    min_count: int = option(5, "how often a word must stand in the training captions to be kept")
    max_caption_length: int = option(20, "words of a caption that are trained on, the rest is cut")
    captions_per_image: int = option(5, "captions of an image that enter one batch, at most")
    horizontal_flip: bool = option(
        False, "mirror training images at random, and swap left and right in their captions"
    )
    random_crop: float = option(
        1.0,
        "smallest share of a training image's area that a random crop keeps; 1 is no cropping; "
        "needs --fine-tune-encoder",
    )

    # Encoder
    encoder: str = option("resnet152", "any timm model", metavar="NAME")
    encoder_weights: str = option(
        "pretrained", "pretrained, none (random), or a .safetensors or .pth file", metavar="WEIGHTS"
    )
    encoder_stage: int | None = option(
        None,
        "take the feature map of this stage of the encoder, counted from 0; default: the last one",
        metavar="N",
    )
    grid: int = option(7, "side of the square grid that the feature map is pooled to")
    image_size: int | None = option(None, "side of the encoder's input; default: the encoder's own")
    image_mode: str | None = option(
        None,
        "how an image becomes the input; default: the encoder's own",
        choices=("squash", "crop", "whole"),
    )
    fine_tune_encoder: str = option(
        "none",
        "train the encoder too: all of it, its last N stages, or none",
        metavar="all|N|none",
        bare="all",
    )
    frozen_epochs: int = option(
        0,
        "leave the encoder as it is in the first N epochs, whose features are stored; then "
        "--fine-tune-encoder comes into force",
    )
    encoder_lr: float | None = option(
        None, "learning rate of the encoder; default: a tenth of --lr, or --lr without weights"
    )
    feature_store: str | None = option(
        None, "folder of the stored features; default: the user's cache folder", changeable=True
    )

    # Decoder
    decoder: str = option(
        "soft_attention", "kind of decoder", choices=("soft_attention", "show_tell")
    )
    hidden_size: int = option(512, "units of the LSTM")
    embedding_size: int = option(512, "length of a word's vector")
    attention_size: int = option(512, "units of the attention's hidden layer")
    feature_embedding_size: int = option(
        0, "length that the features are embedded to before all else; 0 uses them as they are"
    )
    dropout: float = option(0.5, "share of units dropped while training")

    start_from: str | None = option(
        None,
        "checkpoint whose weights and vocabulary a new run begins with, for example to fine-tune "
        "its encoder; options of the model come from it",
        metavar="CHECKPOINT",
    )

    # h-detach
    p: float = option(0.0, "probability that a step's hidden state is detached; 0 is a plain LSTM")
    detach_attention: bool = option(False, "detach the query of the attention at such a step too")
    anneal_epochs: int = option(0, "train the last N epochs without detaching")

    # Optimisation
    lr: float = option(4e-4, "learning rate of the decoder")
    lr_schedule: str = option(
        "constant",
        "how the learning rate goes on after the warm-up",
        choices=("constant", "cosine"),
    )
    warmup_steps: int = option(0, "steps in which the learning rate grows from zero")
    weight_decay: float = option(0.0, "decoupled weight decay of all matrices")
    label_smoothing: float = option(0.0, "probability that the target spreads over all words")
    attention_regulariser: float = option(
        0.0, "weight of the doubly stochastic attention penalty of Xu et al. 2015"
    )
    average_decay: float = option(
        0.0, "decay of the running average of the weights that is validated and kept; 0 is off"
    )
    clip_norm: float = option(0.0, "largest norm of all gradients together; 0 is off")
    clip_value: float = option(0.0, "largest absolute value of one gradient; 0 is off")
    batch_size: int = option(25, "images in a batch, each with its captions")
    epochs: int = option(12, "passes over the training images", changeable=True)
    seed: int = option(0, "seed of the initialisation, the order, the masks and the dropout")
    amp: str = option("off", "arithmetic of the large products", choices=("off", "bf16"))

    # Validation
    validate_every: int = option(0, "steps between validations; 0 is once an epoch")
    beam_size: int = option(1, "beam size of the validations", changeable=True)
    patience: int = option(
        0, "stop after so many validations without a better CIDEr; 0 is never", changeable=True
    )

    # The machine
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", changeable=True)
    threads: int | None = option(None, "threads of the CPU; default: PyTorch's", changeable=True)
    workers: int = option(2, "threads that read and decode images", changeable=True)
    save_every: float = option(
        300.0, "seconds between saves of last/, beside those at validations", changeable=True
    )

    def __post_init__(self) -> None:
        self._check_types()
        for item in fields(self):
            choices, value = item.metadata["choices"], getattr(self, item.name)
            if choices and value is not None and value not in choices:
                raise OptionError(
                    f"{flag(item.name)} is {value!r}; it can be {' or '.join(choices)}"
                )
        self._check_counts()
        self._check_fractions()
        self._check_contradictions()

    @property
    def trains_encoder(self) -> bool:
        return self.fine_tune_encoder != "none"

    @property
    def trained_stages(self) -> int | None:
        """The number of the encoder's last stages that are trained; None is all of them."""
        return None if self.fine_tune_encoder == "all" else int(self.fine_tune_encoder)

    def trains_encoder_in(self, epoch: int) -> bool:
        """Return whether the encoder is trained in this epoch, counted from 0."""
        return self.trains_encoder and epoch >= self.frozen_epochs

    @property
    def effective_encoder_lr(self) -> float:
        if self.encoder_lr is not None:
            return self.encoder_lr
        return self.lr if self.encoder_weights == "none" else self.lr / 10

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """Return the configuration that `to_json` wrote.

        Raises:
            OptionError: an option is unknown to this version, or its value is out of range.
        """
        known = {item.name for item in fields(cls)}
        if strangers := sorted(set(values) - known):
            raise OptionError(
                f"the stored configuration has unknown options: {', '.join(strangers)}; "
                "it was written by another version of this program"
            )
        return cls(**values)

    def _check_types(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kind, is_optional = option_type(item.name)
            if value is None and is_optional:
                continue
            allowed = (int, float) if kind is float else (kind,)
            if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
                raise OptionError(f"{flag(item.name)} is {value!r}; it must be a {kind.__name__}")
            if isinstance(value, float) and not math.isfinite(value):
                raise OptionError(f"{flag(item.name)} is {value}; it must be a finite number")

    def _check_counts(self) -> None:
        at_least_one = (
            "min_count max_caption_length captions_per_image grid image_size hidden_size "
            "embedding_size attention_size batch_size epochs beam_size threads workers"
        )
        not_negative = (
            "anneal_epochs frozen_epochs warmup_steps weight_decay attention_regulariser clip_norm "
            "clip_value seed validate_every patience save_every feature_embedding_size "
            "encoder_stage"
        )
        for name in at_least_one.split():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{flag(name)} is {value}; it must be at least 1")
        for name in not_negative.split():
            value = getattr(self, name)
            if value is not None and value < 0:
                raise OptionError(f"{flag(name)} is {value}; it cannot be negative")
        for name in ("lr", "encoder_lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"{flag(name)} is {value}; it must be above 0")

    def _check_fractions(self) -> None:
        if not 0 <= self.p <= 1:
            raise OptionError(f"--p is {self.p}; a probability lies between 0 and 1")
        for name in ("dropout", "label_smoothing", "average_decay"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise OptionError(f"{flag(name)} is {value}; it must be at least 0 and below 1")
        if not 0 < self.random_crop <= 1:
            raise OptionError(
                f"--random-crop is {self.random_crop}; the share of the area that is kept lies "
                "above 0 and is at most 1"
            )

    def _check_contradictions(self) -> None:
        stages = self.fine_tune_encoder
        if stages not in ("all", "none") and not (stages.isdecimal() and int(stages) >= 1):
            raise OptionError(
                f"--fine-tune-encoder is {stages!r}; it can be all, none, or the number of last "
                "stages to train"
            )
        if self.clip_norm and self.clip_value:
            raise OptionError(
                f"--clip-norm is {self.clip_norm} and --clip-value is {self.clip_value}; "
                "give one of them, and 0 for the other"
            )
        if self.frozen_epochs and (not self.trains_encoder or self.frozen_epochs >= self.epochs):
            raise OptionError(
                f"--frozen-epochs is {self.frozen_epochs} of {self.epochs} epochs with "
                f"--fine-tune-encoder {stages}; leave at least one epoch to fine-tune it"
            )
        if self.random_crop < 1 and not self.trains_encoder:
            raise OptionError(
                "--random-crop needs --fine-tune-encoder: a frozen encoder's features are stored "
                "once, for whole images"
            )
        if self.p > 0 and self.anneal_epochs >= self.epochs:
            raise OptionError(
                f"--anneal-epochs is {self.anneal_epochs} of {self.epochs} epochs, so --p "
                f"{self.p} would never be in force; leave at least one epoch with it"
            )
        if self.attention_regulariser and self.decoder == "show_tell":
            raise OptionError("--attention-regulariser needs attention; show_tell has none")
        if self.detach_attention and self.decoder == "show_tell":
            raise OptionError("--detach-attention needs attention; show_tell has none")


def flag(name: str) -> str:
    """Return the command line's word for a field, such as `--batch-size`."""
    return "--" + name.replace("_", "-")


def option_type(name: str) -> tuple[type, bool]:
    """Return the type of an option's value, and whether None is a value too."""
    annotation = TrainingConfig.__annotations__[name]
    members = getattr(annotation, "__args__", (annotation,))
    kind = next(member for member in members if member is not type(None))
    return kind, type(None) in members
