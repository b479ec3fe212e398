"""Augmentation in training: which views are drawn, stored copies, exact resuming."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.augmented_images import AugmentedCopy
from captioner.files import file_hash
from training.config import TrainingConfig
from training.views import draw_views

TrainHere = Callable[..., int]
NAMES = [f"{number}.jpg" for number in range(400)]
CONSTANT = ["--lr-schedule", "constant", "--warmup-steps", "0", "--horizontal-flip"]


def test_changes_are_drawn_for_decoded_images_and_copies_for_stored_ones() -> None:
    config = TrainingConfig(
        fine_tune_encoder="all",
        epochs=3,
        frozen_epochs=1,
        augment=True,
        augmented_copies=2,
        horizontal_flip=True,
    )
    plain = TrainingConfig(horizontal_flip=True)
    stored, live = (draw_views(config, NAMES, epoch) for epoch in (0, 1))
    assert all(view.change is None for view in stored)
    counts = Counter(view.copy for view in stored)
    assert counts.keys() == {0, 1, 2}
    assert min(counts.values()) > 100
    before = draw_views(plain, NAMES, 0)
    for view, without, name in zip(stored, before, NAMES, strict=True):
        copy = AugmentedCopy(number=view.copy, may_mirror=True)
        assert view.is_mirrored == (copy.is_mirrored(name) if view.copy else without.is_mirrored)
    assert all(view.copy == 0 for view in live)
    assert len({view.change for view in live}) == len(NAMES)
    # Nothing else that is drawn changes with it.
    assert [view._replace(change=None) for view in live] == draw_views(plain, NAMES, 1)
    assert live == draw_views(config, NAMES, 1)
    assert live != draw_views(config, NAMES, 2)


@pytest.mark.parametrize("kind", ["copies", "changes"])
def test_a_run_with_augmentation_is_resumed_exactly(
    kind: str, tiny: list[str], tiny_joint: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    words = [*tiny, "--augmented-copies", "2"] if kind == "copies" else [*tiny_joint, "--augment"]

    def weights(run: str) -> list[str]:
        folder = tmp_path / run / "last"
        return [file_hash(folder / f"{name}.safetensors") for name in ("decoder", "encoder")]

    words += CONSTANT
    assert train_here(*words, "--out", "whole") == 0
    assert train_here(*words, "--epochs", "1", "--out", "parts") == 0
    assert train_here("--resume", "parts", "--epochs", "2") == 0
    assert weights("parts") == weights("whole")
    without = [word for word in words if word != "--augment"]
    if kind == "copies":
        without[without.index("--augmented-copies") + 1] = "0"
        names = [folder.name for folder in (tmp_path / "features").iterdir()]
        assert sum("-copy-" in name for name in names) == 2
        assert len(names) == 5  # the images, mirrored, two copies, val
    assert train_here(*without, "--out", "without") == 0
    assert weights("without") != weights("whole")


def test_options_that_do_not_go_together_are_refused(
    tiny: list[str],
    tiny_joint: list[str],
    train_here: TrainHere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here(*tiny, "--augment") == 2
    assert (
        "--augment needs --fine-tune-encoder: a frozen encoder's features are stored; give --a"
        in (capsys.readouterr().err)
    )
    assert train_here(*tiny_joint, "--augmented-copies", "1") == 2
    assert "--augmented-copies are stored features, and with --fine-tune-encoder none are" in (
        capsys.readouterr().err
    )
