"""Checkpoints: the same captioner comes back, and every kind of damage is named."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from captioner import files
from captioner.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioner.checkpoint_folders import SHIPPED
from captioner.decoders import DECODERS, CaptionBatch, build_decoder, decoder_options
from captioner.encoder.config import EncoderConfig
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.errors import CheckpointError, StorageError
from captioner.files import file_hash, read_json, write_json
from captioner.hashed_folder import read_hashes
from captioner.tensor_files import read_extra
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary
from tests.decoders.attribute_words import give_attributes

NAMES = ["decoder.safetensors", "encoder.safetensors", "hashes.json", "model.json"]


def parts(decoder: str = "soft_attention", seed: int = 0, **encoder: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    config = EncoderConfig(
        **{"name": "test_resnet", "weights": "none", "image_size": 64, "grid": 2, **encoder}
    )
    made = TimmEncoder.create(config, generator)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "dog", "runs"))
    sizes = {"hidden_size": 8, "embedding_size": 6, "attention_size": 5}
    return {
        "encoder": made,
        "decoder": give_attributes(
            build_decoder(
                decoder,
                decoder_options(decoder, sizes),
                vocabulary_size=len(vocabulary),
                feature_size=made.feature_size,
                generator=generator,
            )
        ),
        "vocabulary": vocabulary,
        "summary": {"epochs": 3, "val": {"CIDEr": 0.5}},
    }


def extra(folder: Path, name: str) -> Any:
    return read_extra(folder, read_hashes(folder, ()), name)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "best", **parts())
    return tmp_path / "best"


def logits(made: Any) -> torch.Tensor:
    image = Image.linear_gradient("L").convert("RGB")
    encoder, decoder = (
        (made.encoder, made.decoder)
        if isinstance(made, Checkpoint)
        else (made["encoder"], made["decoder"])
    )
    batch = CaptionBatch.pack([[[4, 5, 6], [5, 4]]])
    with torch.no_grad():
        return decoder.eval()(encoder.encode([encoder.preprocessing.resize(image)]), batch).logits


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("encoder", [{}, {"stage": 2, "image_mode": "squash"}])
def test_what_is_loaded_is_what_was_saved(
    tmp_path: Path, decoder: str, encoder: dict[str, Any]
) -> None:
    made = parts(decoder, **encoder)
    save_checkpoint(tmp_path / "best", **made)
    loaded = load_checkpoint(tmp_path / "best")
    assert torch.equal(logits(loaded), logits(made))
    assert loaded.vocabulary == made["vocabulary"]
    assert loaded.summary == made["summary"]
    assert loaded.encoder.config == made["encoder"].config
    assert loaded.encoder.preprocessing == made["encoder"].preprocessing
    assert loaded.decoder.options == made["decoder"].options
    assert loaded.folder == tmp_path / "best"
    assert not loaded.decoder.training


def test_whoever_may_read_the_description_may_read_the_weights(saved: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in saved.iterdir()}
    assert len(modes) == 5
    assert set(modes.values()) == {modes["model.json"]}


def test_it_loads_without_network_and_without_the_training_code(saved: Path) -> None:
    script = f"""
        import socket, sys
        def refuse(*_, **__):
            raise AssertionError("the network was used")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        from pathlib import Path
        from captioner.checkpoint import load_checkpoint
        load_checkpoint(Path({str(saved)!r}))
        assert not [name for name in sys.modules if name.split(".")[0] == "training"]
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, timeout=100)
    assert socket.socket is not None


def test_weights_are_single_precision_however_they_were_trained(tmp_path: Path) -> None:
    made = parts()
    made["decoder"].to(torch.bfloat16)
    save_checkpoint(tmp_path / "best", **made)
    for name in ("encoder", "decoder"):
        kinds = {v.dtype for v in load_file(tmp_path / "best" / f"{name}.safetensors").values()}
        assert kinds <= {torch.float32, torch.int64}


def test_the_encoder_file_serves_as_encoder_weights(saved: Path) -> None:
    config = EncoderConfig(
        name="test_resnet", weights=str(saved / "encoder.safetensors"), image_size=64, grid=2
    )
    again = TimmEncoder.create(config)
    assert again.fingerprint() == load_checkpoint(saved).encoder.fingerprint()


def test_extras_come_back_under_their_names(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "masks": generator.get_state(),
        "step": torch.tensor(7),
        "double": torch.ones(2).double(),
    }
    save_checkpoint(
        tmp_path / "last",
        **parts(),
        extra_json={"position": {"epoch": 2, "order": [3, 1]}},
        extra_tensors={"optimiser": tensors},
    )
    assert extra(tmp_path / "last", "position") == {"epoch": 2, "order": [3, 1]}
    again = extra(tmp_path / "last", "optimiser")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[k], v) and again[k].dtype == v.dtype for k, v in tensors.items())
    with pytest.raises(CheckpointError) as caught:
        extra(tmp_path / "last", "masks")
    assert str(caught.value).startswith(f"checkpoint {tmp_path / 'last'} holds no masks; ")


def test_the_hash_names_the_contents(tmp_path: Path) -> None:
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        save_checkpoint(tmp_path / name, **parts(seed=seed))
    a, b, c = (load_checkpoint(tmp_path / name).hash for name in "abc")
    assert a == b != c
    assert len(a) == 64


@pytest.mark.parametrize(
    "name", ["model.json", "vocabulary.json", "encoder.safetensors", "decoder.safetensors"]
)
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_named(saved: Path, name: str, damage: str) -> None:
    path = saved / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        message = f"{path} is missing from the checkpoint; restore it or take another checkpoint"
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:-1] if damage == "truncated" else flipped)
        message = (
            f"{path} is truncated or was altered: its hash is not the one in hashes.json; "
            "restore it or take another checkpoint"
        )
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    assert str(caught.value) == message


def test_damage_to_an_extra_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", **parts(), extra_json={"position": 3})
    (tmp_path / "last" / "position.json").write_text("4\n")
    for load in (load_checkpoint, lambda folder: extra(folder, "position")):
        with pytest.raises(CheckpointError, match=r"position\.json is truncated or was altered"):
            load(tmp_path / "last")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model.json": "ab"}'])
def test_a_damaged_list_of_hashes_is_named(saved: Path, content: str) -> None:
    (saved / "hashes.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"hashes\.json") as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_a_run_and_other_folders_are_told_from_a_checkpoint(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a run, not a checkpoint; take {saved}"
    for folder in (tmp_path / "nowhere", saved / "model.json"):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(folder)
        assert str(caught.value) == (
            f"{folder} is not a checkpoint, it has no hashes.json; give a folder such as "
            "runs/NAME/best"
        )


def rewrite(folder: Path, name: str, change: Any) -> None:
    """Alter a JSON file and its hash, as another program might."""
    value = read_json(folder / name, "", CheckpointError)
    change(value)
    write_json(folder / name, value)
    hashes = read_json(folder / "hashes.json", "", CheckpointError)
    write_json(folder / "hashes.json", hashes | {name: file_hash(folder / name)})


def test_a_later_format_is_refused(saved: Path) -> None:
    rewrite(saved, "model.json", lambda model: model.update(format_version=2))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    assert str(caught.value) == (
        f"{saved / 'model.json'} has format_version 2, this program reads 1; update the program, "
        "or take a checkpoint it made"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["encoder"]["config"].update(name="test_vit"), "does not fit the enc"),
        (lambda model: model["encoder"]["config"].update(name="nothing"), "timm has no network"),
        (lambda model: model["decoder"].update(name="parrot"), "decoder is 'parrot'"),
        (lambda model: model["decoder"]["config"].update(hidden_size=9), "size mismatch"),
        (lambda model: model["decoder"]["config"].update(wings=2), "wings"),
        (lambda model: model.pop("preprocessing"), "KeyError: 'preprocessing'"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(saved: Path, change: Any, message: str) -> None:
    rewrite(saved, "model.json", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(saved)
    assert str(caught.value).startswith(f"the parts of checkpoint {saved} do not fit together (")
    assert "\n" not in str(caught.value)


def test_another_vocabulary_is_refused(saved: Path) -> None:
    rewrite(saved, "vocabulary.json", lambda value: value["words"].append("cat"))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    assert str(caught.value) == (
        f"{saved / 'vocabulary.json'} holds 8 words and the decoder was made for 7; take the "
        "vocabulary it was trained with"
    )


def test_a_frozen_encoder_is_written_once(saved: Path, tmp_path: Path) -> None:
    made = parts()
    save_checkpoint(tmp_path / "last", **made, link_encoder_from=saved)
    assert (tmp_path / "last" / "encoder.safetensors").samefile(saved / "encoder.safetensors")
    load_checkpoint(tmp_path / "last")
    # The usual case: the folder that is replaced is itself the one to share with.
    save_checkpoint(tmp_path / "last", **made, link_encoder_from=tmp_path / "last")
    assert (tmp_path / "last" / "encoder.safetensors").samefile(saved / "encoder.safetensors")


@pytest.mark.parametrize("reason", ["learned", "damaged", "gone"])
def test_an_encoder_that_differs_is_not_shared(saved: Path, tmp_path: Path, reason: str) -> None:
    made = parts(seed=4 if reason == "learned" else 0)
    source = tmp_path / "nowhere" if reason == "gone" else saved
    if reason == "damaged":
        (saved / "encoder.safetensors").write_bytes(b"damaged")
    save_checkpoint(tmp_path / "last", **made, link_encoder_from=source)
    assert not (tmp_path / "last" / "encoder.safetensors").samefile(saved / "encoder.safetensors")
    loaded = load_checkpoint(tmp_path / "last")
    assert loaded.encoder.fingerprint() == made["encoder"].fingerprint()


def test_a_full_disk_leaves_the_previous_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_checkpoint(saved).hash

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(StorageError) as caught:
        save_checkpoint(saved, **parts(seed=9))
    monkeypatch.undo()
    assert "No space left on device; what was there before is untouched" in str(caught.value)
    assert str(saved) in str(caught.value)
    assert load_checkpoint(saved).hash == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["best"]


def test_killed_while_writing_it_is_one_of_the_two_checkpoints(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_checkpoint import parts
        from captioner.checkpoint import save_checkpoint
        both = [parts(seed=1), parts(seed=2)]
        print("ready", flush=True)
        while True:
            for made in both:
                save_checkpoint(Path(sys.argv[1]), **made)
    """
    hashes = set()
    for seed in (1, 2):
        save_checkpoint(tmp_path / "alone", **parts(seed=seed))
        hashes.add(load_checkpoint(tmp_path / "alone").hash)
    save_checkpoint(tmp_path / "best", **parts(seed=1))
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(script),
        tmp_path / "best",
        Path(__file__).parent,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert load_checkpoint(tmp_path / "best").hash in hashes


def test_everything_readable_is_readable_json(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted([*NAMES, "vocabulary.json"])
    model = json.loads((saved / "model.json").read_text())
    assert model["preprocessing"]["image_size"] == 64
    assert model["decoder"]["name"] == "soft_attention"


def test_an_exported_model_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="is an exported model, not a checkpoint"):
        load_checkpoint(SHIPPED)
