"""The encoder against timm used by hand, and its rules of pooling, stages and statistics."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from captioner.encoder.config import EncoderConfig
from captioner.encoder.preprocessing import Preprocessing
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.errors import EncoderError, OptionError


def create(name: str = "test_resnet", **values: Any) -> TimmEncoder:
    return TimmEncoder.create(EncoderConfig(**{"name": name, "weights": "none", **values}))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def pixels_for(encoder: TimmEncoder, count: int = 2) -> torch.Tensor:
    side = encoder.preprocessing.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def encode(encoder: TimmEncoder, images: list[Image.Image]) -> torch.Tensor:
    return encoder.encode([encoder.preprocessing.resize(image) for image in images]).grid


def same_network(encoder: TimmEncoder, **options: Any) -> Any:
    """The network as timm gives it, with the encoder's weights."""
    network = timm.create_model(encoder.config.name, num_classes=0, **options).eval()
    network.load_state_dict(encoder.network.state_dict())
    return network


def test_shared_weights_give_the_features_timm_gives(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenetv2_100.safetensors"
    encoder = create("mobilenetv2_100", weights=str(path))
    timms = timm.create_model("mobilenetv2_100").eval()
    timms.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    image = noise(300, 260)
    transform = create_transform(**resolve_model_data_config(timms))
    with torch.no_grad():
        expected = timms.forward_features(transform(image)[None])
    assert expected.shape == (1, 1280, 7, 7)
    features = encode(encoder, [image])
    assert encoder.feature_size == 1280
    torch.testing.assert_close(features, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [1, 3, 5, 14])
def test_the_map_is_averaged_to_the_grid(grid: int) -> None:
    encoder = create(grid=grid)
    pixels = pixels_for(encoder)
    with torch.no_grad():
        map_ = same_network(encoder).forward_features(pixels)
        expected = nn.functional.adaptive_avg_pool2d(map_, grid)
        features = encoder(pixels).grid
    assert features.shape == (2, grid * grid, encoder.feature_size)
    for row, column in [(0, 0), (0, grid - 1), (grid - 1, 0)]:
        torch.testing.assert_close(features[:, row * grid + column], expected[:, :, row, column])


@pytest.mark.parametrize(
    ("name", "grid"),
    [("test_vit", 10), ("swin_tiny_patch4_window7_224", 7), ("mixer_s32_224", 7)],
)
def test_tokens_and_channels_last_maps_become_grids(name: str, grid: int) -> None:
    encoder = create(name, grid=grid)
    pixels = pixels_for(encoder, 1)
    with torch.no_grad():
        expected = same_network(encoder).forward_intermediates(
            pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )[0]
        features = encoder(pixels).grid
    assert expected.shape[-2:] == (grid, grid)
    torch.testing.assert_close(features, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 2, 4])
def test_a_stage_is_timms_feature_map_and_later_ones_are_gone(stage: int) -> None:
    encoder = create(stage=stage, image_size=64, grid=2)
    timms = timm.create_model("test_resnet", features_only=True, out_indices=(stage,)).eval()
    timms.load_state_dict(encoder.network.state_dict(), strict=True)
    pixels = pixels_for(encoder)
    with torch.no_grad():
        expected = nn.functional.adaptive_avg_pool2d(timms(pixels)[0], 2)
        features = encoder(pixels).grid
    torch.testing.assert_close(features, expected.flatten(2).transpose(1, 2))
    assert encoder.feature_size == timms.feature_info.channels()[0]


def test_the_whole_picture_is_seen_in_its_own_shape() -> None:
    encoder = create(image_mode="whole", image_size=160, grid=2)
    images = [noise(160, 96, 1), noise(64, 128, 2), noise(160, 96, 3)]
    features = encode(encoder, images)
    network = same_network(encoder)
    for image, encoded in zip(images, features, strict=True):
        stack = torch.from_numpy(encoder.preprocessing.resize(image)[None])
        pixels = encoder.preprocessing.normalise(stack.permute(0, 3, 1, 2))
        assert pixels.shape[2:] == (image.height, image.width)
        with torch.no_grad():
            map_ = nn.functional.adaptive_avg_pool2d(network.forward_features(pixels), 2)
        torch.testing.assert_close(encoded, map_[0].flatten(1).T, rtol=1e-4, atol=1e-5)


def test_encoding_leaves_mode_and_gradients_alone() -> None:
    encoder = create()
    encoder.trainable(None)
    encoder.train()
    before = encoder.fingerprint()
    features = encode(encoder, [noise(50, 40)])
    assert encoder.training
    assert encoder.fingerprint() == before
    assert not features.requires_grad
    weight = torch.ones(encoder.feature_size, requires_grad=True)
    (features * weight).sum().backward()  # refuses tensors made in inference mode
    assert torch.equal(weight.grad, features.sum((0, 1)))


def test_random_weights_follow_from_the_generator_alone() -> None:
    config = EncoderConfig(name="test_resnet", weights="none")

    def made(seed: int) -> str:
        generator = torch.Generator().manual_seed(seed)
        return TimmEncoder.create(config, generator).fingerprint()

    torch.manual_seed(5)
    first = made(1)
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert made(1) == first
    assert made(2) != first


def test_the_hash_sees_every_weight_and_statistic() -> None:
    encoder = create()
    seen = {encoder.fingerprint()}
    state = encoder.network.state_dict()
    for name in ("conv1.0.weight", "bn1.running_mean", "layer4.0.bn1.num_batches_tracked"):
        state[name].add_(1)
        seen.add(encoder.fingerprint())
    assert len(seen) == 4


def test_a_saved_state_restores_the_same_encoder() -> None:
    encoder = create(stage=3, image_size=64, image_mode="squash")
    again = TimmEncoder.restore(
        EncoderConfig(**asdict(encoder.config)),
        Preprocessing.from_json(encoder.preprocessing.to_json()),
        encoder.network.state_dict(),
    )
    image = noise(70, 64)
    assert torch.equal(encode(again, [image]), encode(encoder, [image]))
    assert again.fingerprint() == encoder.fingerprint()


def test_the_network_is_frozen_until_stages_are_chosen() -> None:
    encoder = create()
    assert [p for p in encoder.parameters() if p.requires_grad] == []
    assert len(encoder.stages()) == 5
    names = {id(value): name for name, value in encoder.network.named_parameters()}
    last = {names[id(value)].partition(".")[0] for value in encoder.trainable(2)}
    assert last == {"layer3", "layer4"}
    assert len(encoder.trainable(None)) == len(list(encoder.parameters()))
    assert encoder.trainable(0) == []


def test_every_parameter_is_in_one_stage() -> None:
    for name in ("mobilenetv2_100", "test_vit", "pit_s_224"):
        network = timm.create_model(name, num_classes=0)
        encoder = TimmEncoder.__new__(TimmEncoder)
        nn.Module.__init__(encoder)
        encoder.network = network
        stages = encoder.stages()
        assert sorted(name for stage in stages for name in stage) == sorted(
            n for n, _ in network.named_parameters()
        )
        if name == "mobilenetv2_100":
            assert len(stages) == 8
            assert {"blocks.6.0.conv_pw.weight", "conv_head.weight"} <= set(stages[-1])


def test_too_many_stages_are_refused() -> None:
    with pytest.raises(OptionError) as caught:
        create().trainable(6)
    assert str(caught.value) == (
        "6 stages of test_resnet are to be fine-tuned; give 0 to 5, or all"
    )


def test_gradients_reach_the_chosen_stages_and_no_other() -> None:
    encoder = create()
    encoder.trainable(1)
    encoder.train()
    encoder(pixels_for(encoder)).grid.square().sum().backward()
    with_gradient = {
        n.partition(".")[0] for n, p in encoder.network.named_parameters() if p.grad is not None
    }
    assert with_gradient == {"layer4"}


def statistics(encoder: TimmEncoder) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in encoder.network.named_buffers() if "running" in n}


@pytest.mark.parametrize("loaded", [True, False])
def test_statistics_follow_the_batch_only_where_nothing_was_loaded(
    tmp_path: Path, loaded: bool
) -> None:
    encoder = create()
    if loaded:
        path = tmp_path / "weights.pth"
        torch.save(encoder.network.state_dict(), path)
        encoder = create(weights=str(path))
    encoder.trainable(2)
    encoder.train()
    before = statistics(encoder)
    pixels = pixels_for(encoder)
    encoder(pixels)
    after = statistics(encoder)
    changed = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert changed == (set() if loaded else {"layer3", "layer4"})
    if loaded:
        encoder.train()
        training = encoder(pixels).grid
        assert torch.equal(training, encoder.eval()(pixels).grid)


def test_a_batch_of_one_image_and_one_position_trains() -> None:
    encoder = create(stage=4, image_size=32, grid=1)
    encoder.trainable(None)
    encoder.train()
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    encoder(pixels).grid.sum().backward()
    assert all(module.training for module in norms)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    last = [name for name in statistics(encoder) if name.startswith("layer4")]
    after = statistics(encoder)
    encoder(torch.cat([pixels, pixels.flip(2)]))
    assert any(not torch.equal(after[name], statistics(encoder)[name]) for name in last)


def test_batch_norm_of_loaded_weights_still_learns_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(create().network.state_dict(), path)
    encoder = create(weights=str(path))
    encoder.trainable(1)
    encoder.train()
    encoder(pixels_for(encoder)).grid.square().sum().backward()
    assert encoder.network.layer4[0].bn2.weight.grad.abs().sum() > 0


def test_the_image_size_of_a_transformer_can_be_chosen() -> None:
    encoder = create("test_vit", image_size=64, grid=4)
    assert encode(encoder, [noise(64, 64)]).shape == (1, 16, encoder.feature_size)


@pytest.mark.parametrize(
    ("values", "mode", "size", "fraction"),
    [
        ({}, "crop", 160, 0.95),
        ({"image_size": 100}, "crop", 100, 0.95),
        ({"image_mode": "squash"}, "squash", 160, 1.0),
        ({"image_mode": "crop"}, "crop", 160, 0.95),
        ({"image_mode": "whole", "image_size": 320}, "whole", 320, 1.0),
    ],
)
def test_preprocessing_is_timms_unless_it_is_chosen(
    values: dict[str, Any], mode: str, size: int, fraction: float
) -> None:
    preprocessing = create(**values).preprocessing
    found = (preprocessing.image_mode, preprocessing.image_size, preprocessing.crop_fraction)
    assert found == (mode, size, fraction)
    assert preprocessing.mean == (0.5, 0.5, 0.5)  # of this network


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet151"}, "timm has no network 'resnet151'; did you mean "),
        ({"name": "qqqqqqqq"}, "timm has no network 'qqqqqqqq'; timm.list_models() lists all"),
        (
            {"name": "resnet10t.foo"},
            "timm has no weights of the name 'resnet10t.foo'; it has resnet10t.c3_in1k",
        ),
        (
            {"name": "crossvit_9_240"},
            "encoder crossvit_9_240 gives no grid of features for images of 240 pixels: its "
            "output is list, not one feature map; choose another encoder, stage or image size",
        ),
        (
            {"name": "test_vit", "image_mode": "whole"},
            "encoder test_vit takes squares of one size; choose --image-mode crop or squash",
        ),
        (
            {"stage": 5},
            "encoder test_resnet has the stages 0 to 4, stage 5 is not one of them; change "
            "--encoder-stage",
        ),
        (
            {"name": "vit_base_patch16_sapiens2"},
            "encoder vit_base_patch16_sapiens2 was made for images of 768 x 1024 pixels",
        ),
        (
            {"name": "botnet50ts_256", "weights": "pretrained"},
            "timm has no pretrained weights of botnet50ts_256; give --encoder-weights FILE or none",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError) as caught:
        create(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": 0}, "--grid is 0; it must be at least 1"),
        ({"name": ""}, "encoder and encoder_weights must not be empty"),
        ({"image_size": -1}, "--image-size is -1; it must be at least 1"),
        ({"image_mode": "fit"}, "--image-mode is 'fit'; it can be squash or crop or whole"),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        EncoderConfig(**values)
    assert str(caught.value) == message


def test_without_a_network_pretrained_weights_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(EncoderError) as caught:
        create(weights="pretrained")
    assert time.monotonic() - started < 10
    assert str(caught.value) == (
        "the pretrained weights of test_resnet must be downloaded and there is no network "
        "([Errno 111] Connection refused); give --encoder-weights FILE with weights at hand, or "
        "--encoder-weights none"
    )


def test_downloaded_weights_are_found_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    published = timm.create_model("test_resnet")
    nn.init.constant_(published.conv1[0].weight, 0.25)
    torch.save(published.state_dict(), folder / "snapshots" / "abc" / "pytorch_model.bin")
    encoder = create(weights="pretrained")
    assert encoder.network.conv1[0].weight.unique().tolist() == [0.25]
