"""The client and `captioner caption --server` against the real service, and against the library."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captioner
from captioner.cli import main
from captioner.client import CaptionClient, ServiceError


def test_the_client_gets_what_the_library_gives(
    live: Any, tiny_checkpoint: Path, photographs: list[Path]
) -> None:
    local = captioner.load(tiny_checkpoint).captions(photographs, num_captions=2)
    with CaptionClient(live.url) as client:
        answers = client.caption_many(photographs, num_captions=2, attention=True, progress=False)
        with pytest.raises(ServiceError) as caught:
            client.caption(b"no image")
    assert caught.value.code == "unsupported_format"
    for answer, captions in zip(answers, local, strict=True):
        for served, caption in zip(answer.captions, captions, strict=True):
            assert (served.text, served.tokens) == (caption.text, caption.tokens)
            assert served.log_prob == pytest.approx(caption.log_prob, abs=1e-4)
            np.testing.assert_allclose(served.attention, caption.attention, atol=1e-4)


def test_the_command_draws_the_same_attention_with_and_without_a_service(
    live: Any, tiny_checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    words = ["caption", *map(str, photographs[:2]), "--attention"]
    local, remote = tmp_path / "local.png", tmp_path / "remote.png"
    assert main([*words, str(local), "--checkpoint", str(tiny_checkpoint)]) == 0
    assert main([*words, str(remote), "--server", live.url]) == 0
    for number in (1, 2):
        drawn = [
            np.asarray(Image.open(path.with_stem(f"{path.stem}-{number}")), np.int16)
            for path in (local, remote)
        ]
        assert drawn[0].shape == drawn[1].shape
        assert np.abs(drawn[0] - drawn[1]).max() <= 2  # the service rounds to five digits


def test_the_command_prints_the_same_with_and_without_a_service(
    live: Any, tiny_checkpoint: Path, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = photographs[0].with_name("broken.jpg")
    broken.write_bytes(photographs[0].read_bytes()[:300])
    words = ["caption", str(photographs[0].parent), "--num-captions", "2"]
    assert main([*words, "--checkpoint", str(tiny_checkpoint)]) == 1
    local = capsys.readouterr()
    assert main([*words, "--server", live.url]) == 1
    remote = capsys.readouterr()
    assert remote.out == local.out
    assert len(local.out.splitlines()) == 8
    assert f"skipped: {broken}: the image cannot be decoded" in remote.err
