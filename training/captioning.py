"""A captioner in training: the work that `train_coco.py` gives to the run engine."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.checkpoint import save_checkpoint
from captioner.files import file_hash
from captioner.pictures import Sample, draw_samples
from training.assembly import TrainingSetup
from training.averaging import WeightAverage
from training.batches import TrainingBatch
from training.cell_paths import MeasuredCaptions
from training.distributed import Amounts, Portion, Ranks
from training.feature_sources import ImageSource
from training.objectives import OBJECTIVES
from training.objectives.interface import DecoderPass, ObjectiveBatch
from training.optimisation import (
    build_optimiser,
    clip_gradients,
    encoder_lr_factor,
    lr_factor,
    set_lr,
)
from training.plots import Curves
from training.randomness import derived_generator
from training.run_folder import RunFolder
from training.run_state import Extras, RunState
from training.validation import scores_line, write_captions
from training.work import BatchLoss, Figures, RunSchedule, Work

_LOG_EVERY_STEPS = 20
_NUM_SAMPLES = 8  # photographs in samples.png
_AVERAGE, _TRAINING_PART = "average", "training_part"  # files of last/


class Captioning(Work):
    """A captioner, trained by the objective that was chosen."""

    gradient_remedy = "--clip-norm 1"
    checks_every_loss = True
    score = "CIDEr"
    curves = Curves(
        scores=("CIDEr", "METEOR", "Bleu_4"),
        loss_label="training loss per word",
        score_label="score of generated captions",
    )

    def __init__(self, setup: TrainingSetup) -> None:
        self._setup = setup
        self.dataset = setup.dataset
        self._encoder, self._decoder = setup.engine.encoder, setup.engine.decoder
        self._config = config = setup.config
        self._ranks = ranks = setup.ranks
        steps_per_epoch = setup.batches.steps_per_epoch
        self.schedule = RunSchedule(
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
            log_every=_LOG_EVERY_STEPS,
            validate_every=config.validate_every or steps_per_epoch,
            save_every=config.save_every,
            patience=config.patience,
        )
        self.costlier_from_step = config.frozen_epochs * steps_per_epoch
        self.data_name = f"{self.dataset.paths} or the readable images"
        self.parameters = [*self._decoder.parameters(), *setup.encoder_parameters]
        self.optimiser = build_optimiser(self._decoder, setup.encoder_parameters, config)
        device = setup.engine.device
        # Masks, and the captions that an objective draws, are those of the whole batch, so all
        # processes draw the same. What is drawn for each word of a part is each one's own.
        dropout, draws = _own_stream("dropout", ranks), "draws"
        if self._decoder.samples_in_training:
            draws = _own_stream("draws", ranks)
        self.generators = {
            "masks": derived_generator(config.seed, "masks"),
            dropout: derived_generator(config.seed, dropout, device=device),
            draws: derived_generator(config.seed, draws, device=device),
        }
        self._masks, self._dropout, self._draws = self.generators.values()
        modules: dict[str, nn.Module] = {"decoder": self._decoder}
        if config.trains_encoder:
            modules["encoder"] = self._encoder
        self._average = (
            WeightAverage(modules, config.average_decay) if config.average_decay else None
        )
        self._objective = OBJECTIVES[config.objective](config.part("objective"), setup.vocabulary)
        self._objective.begin(setup.batches.references)
        self.facts = {"facts": setup.facts}
        self.fingerprint: dict[str, Any] = {
            "sha256": setup.dataset.sha256(),
            "training_images": setup.batches.num_images,
        }
        if config.captions_without_photographs:
            paths = map(Path, config.captions_without_photographs)
            self.fingerprint["captions_without_photographs"] = [*map(file_hash, paths)]
        self._captions: dict[int, list[str]] = {}  # of the last validation, by image id
        self._measured: MeasuredCaptions | None = None
        if config.gradient_lags:
            self._measured = MeasuredCaptions.choose(
                setup.dataset.split("val"), setup.vocabulary, max(config.gradient_lags) + 1
            )

    def close(self) -> None:
        self._setup.validator.close()
        for source in self._setup.sources:
            source.close()

    def batches(self, epoch: int, *, start: int) -> Generator[TrainingBatch]:
        return self._setup.batches.epoch(epoch, start=start)

    def start_training(self, epoch: int) -> None:  # noqa: ARG002
        for source in self._setup.sources:
            source.agree(self._ranks)
        self._decoder.train()
        self._encoder.train(self._config.trains_encoder)

    def loss(self, batch: TrainingBatch, step: int) -> BatchLoss | None:
        """Return the objective's loss; None where no image of the batch is readable.

        Of several processes each returns its share, and the sum is the loss of the whole batch.
        """
        captions, references = batch.captions, batch.references
        own = Amounts()
        if captions is not None:
            count = sum(len(of_image) for of_image in references)
            own = Amounts(len(references), captions.num_captions, captions.num_tokens, count)
        portion, held = Portion.of(self._ranks, own)
        weight, num_captions = sum(one.words for one in held), sum(one.captions for one in held)
        if not weight:
            return None
        if captions is None:
            self._ranks.follow()
            return BatchLoss(torch.zeros(()), weight, num_captions)
        config, epoch = self._config, step // self.schedule.steps_per_epoch
        loss, figures = self._objective(
            self._decoder,
            ObjectiveBatch(batch.source.features(batch.images), captions, references, portion),
            DecoderPass(
                p=config.p if epoch < config.epochs - config.anneal_epochs else 0.0,
                masks=self._masks,
                dropout=self._dropout,
                draws=self._draws,
                product_dtype=torch.bfloat16 if config.amp == "bf16" else None,
                ranks=self._ranks,
            ),
        )
        if not all(one.words for one in held):
            self._ranks.most(0)  # those that follow need no longer
        figures = {name: portion.words * figure for name, figure in figures.items()}
        return BatchLoss(portion.words * loss, weight, num_captions, figures)

    def update(self, step: int) -> None:
        self._ranks.average(self._statistics())
        config, schedule = self._config, self.schedule
        total, per_epoch = schedule.total_steps, schedule.steps_per_epoch
        clip_gradients(self.parameters, config)
        set_lr(
            self.optimiser,
            lr_factor(step, total, config),
            encoder_lr_factor(step, total, per_epoch, config),
        )
        self.optimiser.step()
        if self._average is not None:
            self._average.update(step + 1)

    def _statistics(self) -> list[Tensor]:
        """Return the buffers that a step of training moves, in each process by its own images."""
        part = self._decoder.training_part
        kept = [
            value
            for name, value in self._decoder.named_buffers()
            if not name.startswith("training_part.")
        ]
        buffers = [*part.buffers()] if part is not None else []
        moved = [value for value in buffers if not any(value is one for one in kept)]
        for module in self._encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                moved += module.buffers()
        return [value for value in moved if value.is_floating_point()]

    def evaluating(self) -> AbstractContextManager[object]:
        return self._average.in_place() if self._average is not None else nullcontext()

    def validate(self, step: int, is_stopping: Callable[[], bool]) -> Figures | None:
        """Caption and score the validation images, each process a part; the first one scores."""
        setup, ranks = self._setup, self._ranks
        self._decoder.eval()
        self._encoder.eval()
        source = setup.sources[1].of_epoch((step - 1) // self.schedule.steps_per_epoch)
        captions = setup.validator.captions(setup.engine, source, ranks, is_stopping=is_stopping)
        setup.sources[1].agree(ranks)
        if captions is None:
            return None
        self._captions = captions
        return ranks.share(self._figures(captions, source) if ranks.is_first else {})

    def _figures(self, captions: Mapping[int, list[str]], source: ImageSource) -> Figures:
        figures, config = self._setup.validator.score(captions).figures, self._config
        if self._measured is None:
            return figures
        shares = self._measured.shares(self._decoder, source, config.gradient_lags, config.p)
        return {**figures, **shares}

    def describe(self, figures: Figures) -> str:
        return scores_line(figures)

    def show(self, folder: RunFolder) -> None:
        """Write the captions of the last validation, and draw some with their photographs."""
        images = self._setup.validator.images
        write_captions(folder.captions, images, self._captions)
        captioned = [image for image in images if image.image_id in self._captions]
        shown = captioned[:: max(1, len(captioned) // _NUM_SAMPLES)][:_NUM_SAMPLES]
        draw_samples(
            [
                Sample(
                    image_path=image.path,
                    generated=" ".join(self._captions[image.image_id]),
                    references=image.captions,
                )
                for image in shown
            ],
            folder.samples,
        )

    def log_figures(self) -> Figures:
        return {"lr": self.optimiser.param_groups[0]["lr"]}

    def save(self, folder: Path, state: RunState, extras: Extras) -> None:
        """Write a checkpoint; an unchanged encoder is shared with one that is there already."""
        setup, config = self._setup, self._config
        there = [path for path in (folder.parent / "last", folder.parent / "best") if path.exists()]
        save_checkpoint(
            folder,
            encoder=self._encoder,
            decoder=self._decoder,
            vocabulary=setup.vocabulary,
            summary={
                "step": state.step,
                "epoch": round(self.schedule.epochs_in(state.step), 4),
                "best_step": state.best_step,
                "scores_val": state.best if state.best_step == state.step else {},
                "beam_size_val": config.beam_size,
                "seconds": round(state.seconds, 1),
                "data": self.dataset.origin(),
                "training": config.to_json(),
            },
            extra_json=extras.json_values,
            extra_tensors=extras.tensors,
            link_encoder_from=there[0] if there and not config.trains_encoder else None,
        )

    def carried(self) -> dict[str, dict[str, Tensor]]:
        carried = {}
        if self._average is not None:
            carried[_AVERAGE] = self._average.tensors()
        if self._decoder.training_part is not None:
            carried[_TRAINING_PART] = self._decoder.training_part.state_dict()
        return carried

    def restore_carried(self, group: str, tensors: Mapping[str, Tensor]) -> None:
        if group == _AVERAGE:
            assert self._average is not None
            self._average.restore(tensors)
        else:
            assert self._decoder.training_part is not None
            self._decoder.training_part.load_state_dict(dict(tensors))


def _own_stream(purpose: str, ranks: Ranks) -> str:
    """Return a purpose for which each process draws by itself; the first one's has no number."""
    return f"{purpose}-{ranks.rank}" if ranks.rank else purpose
