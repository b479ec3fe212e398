"""The training loop: batch, loss, step; validation with generated captions; checkpoints.

A run is a function of its configuration: when it is saved, interrupted or resumed changes no
number. Everything random is drawn from the generators of `randomness.py`.
"""

import enum
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext

import torch
from torch import nn

from captioner.decoders import caption_loss
from captioner.errors import TrainingError
from captioner.hdetach.masks import sample_keep
from captioner.pictures import Sample, draw_samples
from captioner.progress import Progress, duration
from training.assembly import Parts
from training.averaging import WeightAverage
from training.batches import TrainingBatch
from training.interruption import Interruption
from training.optimisation import (
    build_optimiser,
    clip_gradients,
    encoder_lr_factor,
    lr_factor,
    set_lr,
)
from training.plots import draw_curves
from training.randomness import StepGenerators
from training.run_folder import MetricsLog, RunFolder, read_metrics
from training.run_state import Interval, Moving, Standing, restore, save_last, save_weights
from training.validation import Validation, scores_line, write_captions

_LOG_EVERY_STEPS = 20
_NUM_SAMPLES = 8  # photographs in samples.png


class Outcome(enum.Enum):
    FINISHED = "all epochs are done"
    STOPPED_EARLY = "no better CIDEr for as many validations as --patience allows"
    INTERRUPTED = "interrupted"


class Trainer:
    """Trains the parts of a run and keeps its folder."""

    def __init__(self, parts: Parts, folder: RunFolder, announce: Callable[[str], None]) -> None:
        self.standing = Standing()
        self._parts = parts
        self._config = config = parts.config
        self._folder = folder
        self._announce = announce
        modules: dict[str, nn.Module] = {"decoder": parts.decoder}
        if config.trains_encoder:
            modules["encoder"] = parts.encoder
        self._parameters = [*parts.decoder.parameters(), *parts.encoder_parameters]
        self._moving = Moving(
            optimiser=build_optimiser(parts.decoder, parts.encoder_parameters, config),
            generators=StepGenerators.derived(config.seed, parts.device),
            average=WeightAverage(modules, config.average_decay) if config.average_decay else None,
        )
        self._steps_per_epoch = parts.batches.steps_per_epoch
        self._total_steps = config.epochs * self._steps_per_epoch
        self._here = Interval()  # sums of this process
        self._product_dtype = torch.bfloat16 if config.amp == "bf16" else None

    def resume(self) -> None:
        """Take up the counts, moments and generators in `last/`."""
        self.standing = restore(self._folder.last, self._parts, self._moving)

    def run(self) -> Outcome:
        """Train to the end, or until interrupted; `last/` then holds exactly where.

        Raises:
            TrainingError: the loss is no number.
            StorageError: the disk is full; the checkpoints before are whole.
        """
        log = MetricsLog(
            self._folder, kept_bytes=self.standing.metrics_bytes, step=self.standing.step
        )
        if not log.has_events:
            self._announce("no TensorBoard events: the package tensorboard is not installed")
        with closing(log), self._parts.validator, Interruption() as interruption:
            self._log, self._interruption = log, interruption
            self._saved_at = time.monotonic()
            return self._go_on()

    def _go_on(self) -> Outcome:
        config, standing = self._config, self.standing
        while True:
            if self._is_validation_due():
                self._validate()
            if self._interruption.is_requested:
                self._save_last()
                return Outcome.INTERRUPTED
            if config.patience and standing.stale_validations >= config.patience:
                return Outcome.STOPPED_EARLY
            if standing.step >= self._total_steps:
                return Outcome.FINISHED
            self._train_to_next_stop()

    def _is_validation_due(self) -> bool:
        step = self.standing.step
        if step == 0 or step == self.standing.validated_step:
            return False
        every = self._config.validate_every or self._steps_per_epoch
        return step % every == 0 or step >= self._total_steps

    def _train_to_next_stop(self) -> None:
        """Train to the end of the epoch, or to a validation within it."""
        standing, config = self.standing, self._config
        epoch, position = divmod(standing.step, self._steps_per_epoch)
        end = min((epoch + 1) * self._steps_per_epoch, self._total_steps)
        if every := config.validate_every:
            end = min(end, (standing.step // every + 1) * every)
        self._set_training(True)
        if position == 0 and epoch == config.frozen_epochs:
            self._here = Interval()  # from here on a step costs more
        with (
            closing(self._parts.batches.epoch(epoch, start=position)) as batches,
            Progress(
                self._steps_per_epoch,
                f"epoch {epoch + 1}/{config.epochs}",
                unit="steps",
                initial=position,
            ) as progress,
        ):
            while standing.step < end and not self._interruption.is_requested:
                started = time.monotonic()
                loss = self._train_step(next(batches))
                self._count(time.monotonic() - started)
                progress.advance(1, loss=f"{loss:.3f}", **self._speed())
                if time.monotonic() - self._saved_at >= config.save_every:
                    self._save_last()

    def _train_step(self, batch: TrainingBatch) -> float:
        """Take one step and return the loss; a batch without a readable image changes nothing."""
        config, parts, generators = self._config, self._parts, self._moving.generators
        step, total, per_epoch = self.standing.step, self._total_steps, self._steps_per_epoch
        epoch = step // per_epoch
        factor = lr_factor(step, total, config)
        encoder_factor = encoder_lr_factor(step, total, per_epoch, config)
        self.standing.step += 1
        captions = batch.captions
        if captions is None:
            return 0.0
        p = config.p if epoch < config.epochs - config.anneal_epochs else 0.0
        keep = sample_keep(captions.steps, p, generator=generators.masks)
        output = parts.decoder(
            batch.source.features(batch.images),
            captions,
            keep=keep,
            generator=generators.dropout,
            product_dtype=self._product_dtype,
        )
        loss = caption_loss(
            output,
            captions,
            label_smoothing=config.label_smoothing,
            attention_regulariser=config.attention_regulariser,
        )
        value = float(loss.item())
        if not math.isfinite(value):
            raise self._not_a_number(f"the loss is {value}")
        optimiser = self._moving.optimiser
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(self._parameters, config)
        set_lr(optimiser, factor, encoder_factor)
        optimiser.step()
        if self._moving.average is not None:
            self._moving.average.update(self.standing.step)
        for sums in (self.standing.interval, self._here):
            sums.loss += value * captions.num_tokens
            sums.tokens += captions.num_tokens
            sums.captions += captions.num_captions
            sums.steps += 1
        return value

    def _count(self, seconds: float) -> None:
        standing, interval = self.standing, self.standing.interval
        standing.seconds += seconds
        for sums in (interval, self._here):
            sums.seconds += seconds
        if standing.step % _LOG_EVERY_STEPS and standing.step % self._steps_per_epoch:
            return
        if interval.tokens:
            self._log.write(
                "train",
                standing.step,
                {
                    "epoch": standing.step / self._steps_per_epoch,
                    "loss": interval.loss / interval.tokens,
                    "lr": self._moving.optimiser.param_groups[0]["lr"],
                    "captions_per_second": interval.captions / interval.seconds,
                    "seconds": standing.seconds,
                },
            )
        standing.interval = Interval()

    def _speed(self) -> dict[str, str]:
        """Return what a waiting person wants to know: captions a second, time left of the run."""
        here = self._here
        if not here.steps:
            return {}
        left = (self._total_steps - self.standing.step) * here.seconds / here.steps
        at_least = "" if self._is_encoder_settled() else "> "
        return {
            "captions/s": f"{here.captions / here.seconds:.0f}",
            "run": f"{at_least}{duration(left)} left",
        }

    def _is_encoder_settled(self) -> bool:
        """Return whether the rest of the run costs per step what it costs now."""
        frozen_steps = self._config.frozen_epochs * self._steps_per_epoch
        return not frozen_steps or self.standing.step > frozen_steps

    def _validate(self) -> None:
        """Caption and score the validation images; a wish to stop leaves it for the next time."""
        self._check_weights()
        started = time.monotonic()
        self._set_training(False)
        standing, folder, parts = self.standing, self._folder, self._parts
        with self._averaged():
            last_epoch = (standing.step - 1) // self._steps_per_epoch
            validation = parts.validator.run(
                parts.engine,
                parts.validation_source(last_epoch),
                is_stopping=lambda: self._interruption.is_requested,
            )
            if validation is None:
                return
            is_best = standing.take(validation.figures)
            if is_best:
                save_weights(folder.best, parts, standing, unchanged_encoder=folder.last)
        standing.seconds += time.monotonic() - started
        epoch = standing.step / self._steps_per_epoch
        self._announce(
            f"validation after epoch {epoch:g}: {scores_line(validation.figures)}"
            + (" (the best so far)" if is_best else "")
        )
        figures = {"epoch": epoch, **validation.figures, "seconds": standing.seconds}
        self._log.write("validation", standing.step, figures)
        self._show(validation)
        self._save_last()

    def _show(self, validation: Validation) -> None:
        """Refresh the files that show how the run goes."""
        folder, images = self._folder, self._parts.validator.images
        write_captions(folder.captions, images, validation.captions)
        draw_curves(
            read_metrics(folder),
            folder.curves,
            scores=("CIDEr", "METEOR", "Bleu_4"),
            loss_label="training loss per word",
            score_label="score of generated captions",
        )
        captioned = [image for image in images if image.image_id in validation.captions]
        shown = captioned[:: max(1, len(captioned) // _NUM_SAMPLES)][:_NUM_SAMPLES]
        draw_samples(
            [
                Sample(
                    image_path=image.path,
                    generated=" ".join(validation.captions[image.image_id]),
                    references=image.captions,
                )
                for image in shown
            ],
            folder.samples,
        )

    def _save_last(self) -> None:
        self._check_weights()
        self.standing.metrics_bytes = self._log.bytes_written
        save_last(
            self._folder.last,
            self._parts,
            self.standing,
            self._moving,
            beside=self._folder.best,
        )
        self._saved_at = time.monotonic()

    def _check_weights(self) -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters):
            raise self._not_a_number("the weights hold NaN or infinite values")

    def _not_a_number(self, what: str) -> TrainingError:
        good = [path for path in (self._folder.last, self._folder.best) if path.exists()]
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
        return TrainingError(
            f"{what} at step {self.standing.step:,}; {where}, nothing was overwritten; "
            "lower --lr, or bound the gradients by --clip-norm 1"
        )

    def _set_training(self, is_training: bool) -> None:
        self._parts.decoder.train(is_training)
        self._parts.encoder.train(is_training and self._config.trains_encoder)

    def _averaged(self) -> AbstractContextManager[None]:
        average = self._moving.average
        return average.in_place() if average is not None else nullcontext()
