"""Files of weights in the forms people have them in, and what is said when they do not fit."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from captioner.encoder.weights import load_state, read_state
from captioner.errors import EncoderError

STATE = {"conv.weight": torch.randn(4, 3), "conv.bias": torch.zeros(4), "count": torch.tensor(3)}


def network() -> nn.Module:
    return nn.ModuleDict({"conv": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4)})


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) for k in found
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_every_kind_of_file_gives_the_same_tensors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(STATE, path)
    assert same(read_state(path), STATE)


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_wrapping_and_prefixes_of_training_scripts_are_taken_off(tmp_path: Path, wrap) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrap({f"module.{name}": value for name, value in STATE.items()}), path)
    assert same(read_state(path), STATE)


def test_half_precision_becomes_single_and_counts_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.tensor([0.5], dtype=torch.float16), "n": torch.tensor([7])}, path)
    state = read_state(path)
    assert state["a"].dtype == torch.float32
    assert state["n"].dtype == torch.int64


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weights": Trap(str(tmp_path / "sprung"))}, path)
    with pytest.raises(EncoderError, match="or hold more than weights") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps(Trap(str(tmp_path / "sprung"))))
    with pytest.raises(EncoderError):
        read_state(path)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04" + bytes(100)])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EncoderError) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"encoder weights {path} ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(EncoderError) as caught:
            read_state(path)
        assert str(caught.value) == (
            f"encoder weights {path}: there is no such file; --encoder-weights takes a "
            ".safetensors or .pth file, pretrained or none"
        )


def test_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": 3}, path)
    with pytest.raises(EncoderError, match="hold something else than named tensors"):
        read_state(path)


def test_the_classifier_and_counts_of_batches_may_differ() -> None:
    state = network().state_dict() | {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    del state["norm.num_batches_tracked"]
    state["conv.bias"] = torch.full((4,), 9.0)
    ours = network()
    load_state(ours, state, ("fc",), "a file")
    assert torch.equal(ours.state_dict()["conv.bias"], state["conv.bias"])


def test_differences_are_counted_and_the_first_of_each_is_named() -> None:
    state = network().state_dict()
    del state["norm.running_mean"], state["norm.running_var"]
    state["conv.weight"] = torch.ones(5, 3)
    state["other.weight"] = torch.ones(1)
    ours = network()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(EncoderError) as caught:
        load_state(ours, state, ("fc",), "a file")
    assert str(caught.value) == (
        "a file does not fit the encoder: 2 tensors missing (first: norm.running_mean); "
        "1 tensors unexpected (first: other.weight); 1 tensors of another shape (first: "
        "conv.weight [5, 3] instead of [4, 3]); choose the --encoder the file was made with"
    )
    assert same(ours.state_dict(), before)
