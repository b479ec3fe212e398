"""PyTorch as an engine: candidates against the decoder's own log-probabilities."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.decoders import DECODERS, build_decoder, decoder_options
from captioner.engines import load_engine
from captioner.engines.torch_engine import TorchDecoding, packed, unpacked
from captioner.errors import OptionError
from captioner.features import Features
from captioner.vocabulary import END, PAD, START, UNKNOWN
from tests.decoders.attribute_words import give_attributes

NO_WORDS = np.zeros((3, 0), np.int64)
FIRST = np.full((3, 1), START), np.zeros((3, 1), np.int64)


class Memory(NamedTuple):
    table: Tensor


class State(NamedTuple):
    written: Tensor


class Given:
    """A decoder that says what it is told to, and notes the rows that it is asked about."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # [B, V]

    def prepare(self, features: Features) -> Memory:
        return Memory(self.logits[: len(features)])

    def start(self, memory: Memory) -> State:
        return State(torch.zeros(len(memory.table), 1, 1))

    def attributes(self, memory: Memory) -> None: ...

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, None]:
        logits = memory.table.unsqueeze(1).expand(-1, words.shape[1], -1).clone()
        return logits, State(10 * state.written + words.unsqueeze(2)), None


def given(logits: list[list[float]]) -> TorchDecoding:
    return TorchDecoding(Given(torch.tensor(logits)), Features(torch.zeros(len(logits), 1, 1)))


def test_equal_words_come_in_the_order_of_their_ids_also_where_some_are_left_out() -> None:
    many = [0.0] * 3000
    rising = [float(-(number % 50)) for number in range(3000)]
    decoding = given([many, rising, [*many[:-1], 1.0]])
    found = decoding.step(*FIRST, 5, NO_WORDS)
    assert found.words[:, 0].tolist() == [
        [END, 4, 5, 6, 7],
        [50, 100, 150, 200, 250],  # 0 is PAD
        [2999, END, 4, 5, 6],
    ]
    log_probs = torch.tensor([many, rising, [*many[:-1], 1.0]]).log_softmax(1).numpy()
    for image in range(3):
        expected = log_probs[image, found.words[image, 0]]
        np.testing.assert_array_equal(found.log_probs[image, 0], expected)


def test_of_equal_words_only_one_of_which_is_asked_for_it_is_the_first() -> None:
    one = [0.0] * 3000
    one[2000] = 1.0
    found = given([one] * 3).step(*FIRST, 2, NO_WORDS)
    assert found.words[:, 0].tolist() == [[2000, END]] * 3


def test_what_is_never_written_is_impossible_wherever_it_stands() -> None:
    decoding = given([[9.0, 9.0, 0.0, 9.0, 1.0, 2.0]] * 3)
    wanted = np.array([[PAD, START, UNKNOWN, END, 5]] * 3)
    found = decoding.step(*FIRST, 50, wanted)
    assert found.words.shape[2] <= 6
    assert found.words[0, 0, :3].tolist() == [5, 4, END]
    assert np.all(np.isfinite(found.log_probs[:, :, :3]))
    assert np.all(found.log_probs[:, :, 3:] == -math.inf)
    assert np.all(found.wanted[:, :, :3] == -math.inf)
    assert found.wanted[0, 0, 3:].tolist() == found.log_probs[0, 0, [2, 0]].tolist()
    assert (found.log_probs.dtype, found.words.dtype) == (np.float32, np.int64)
    assert (found.wanted.dtype, found.attention) == (np.float32, None)


def test_rows_follow_their_parents_and_images_leave() -> None:
    decoding = given([[0.0] * 9] * 3)
    decoding.step(*FIRST, 3, NO_WORDS)
    decoding.step(np.array([[4, 5], [6, 7], [8, 4]]), np.zeros((3, 2), np.int64), 3, NO_WORDS)
    decoding.keep(np.array([0, 2]))
    parents = np.array([[1, 1, 0], [0, 1, 0]])
    decoding.step(np.array([[6, 7, 8], [5, 6, 7]]), parents, 3, NO_WORDS[:2])
    written = decoding._state.written.squeeze(2).tolist()
    assert written == [[156, 157, 148], [185, 146, 187]]


@pytest.mark.parametrize("name", DECODERS)
def test_candidates_are_the_decoders_own(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    options = decoder_options(name, {"hidden_size": 8, "embedding_size": 6, "attention_size": 5})
    decoder = give_attributes(
        build_decoder(name, options, vocabulary_size=30, feature_size=4, generator=generator)
    ).eval()
    features = Features(torch.randn(3, 4, 4, generator=generator))
    with torch.no_grad():
        decoding = TorchDecoding(decoder, features)
        memory = decoder.prepare(features)
        result = decoder.step(torch.full((3, 1), START), decoder.start(memory), memory)
    found = decoding.step(*FIRST, 4, np.array([[7], [8], [9]]))
    expected = result.logits.log_softmax(2)
    expected[..., [PAD, START, UNKNOWN]] = -math.inf
    values, words = expected.topk(4, dim=2)
    np.testing.assert_array_equal(found.words, words)
    np.testing.assert_array_equal(found.log_probs, values)
    assert found.wanted[:, 0, 0].tolist() == expected[[0, 1, 2], 0, [7, 8, 9]].tolist()
    assert (found.attention is not None) == (result.attention is not None)
    assert result.attention is not None or not decoder.has_attention
    if found.attention is not None:
        np.testing.assert_array_equal(found.attention, result.attention)
        assert found.attention.dtype == np.float32


def test_one_copy_carries_numbers_of_both_kinds_and_every_bit_of_them() -> None:
    values = torch.tensor([[[0.1, -math.inf, math.nan]], [[1e-42, -0.0, 3e38]]])
    words = torch.tensor([[[2**31 - 1, 0]], [[4, 2_143_289_345]]])  # some are bits of NaN
    nothing = torch.zeros(2, 1, 0)
    spread = torch.arange(12.0).view(2, 6).t()[:4].reshape(2, 1, 4)
    given = [values, words, nothing, spread]
    found = unpacked(packed(given).numpy(), given)
    assert [one.dtype for one in found] == [np.float32, np.int64, np.float32, np.float32]
    assert np.array_equal(found[0].view(np.int32), values.numpy().view(np.int32))
    for one, expected in zip(found[1:], given[1:], strict=True):
        np.testing.assert_array_equal(one, expected)


def test_a_folder_without_weights_for_torch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deployable.json").write_text("{}")
    with pytest.raises(OptionError, match="was exported for engines without it"):
        load_engine("torch", tmp_path)
