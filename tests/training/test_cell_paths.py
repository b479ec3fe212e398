"""The cell part is the product of forget gates; the rest is what else PyTorch finds."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from captioner.decoders import DECODERS, Decoder, build_decoder
from captioner.features import Features
from captioner.lstm.path_gradients import gradient_paths
from captioner.vocabulary import START
from tests.decoders.attribute_words import give_attributes
from training.cell_paths import cell_gradients, cell_shares

SIZES = {"hidden_size": 5, "embedding_size": 4, "attention_size": 3, "dropout": 0.0}
VOCABULARY, WORDS = 11, 6


@pytest.fixture
def features() -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(torch.randn(3, 4, 7, generator=generator, dtype=torch.float64))


@pytest.fixture
def words() -> Tensor:
    return torch.randint(3, VOCABULARY, (3, WORDS), generator=torch.Generator().manual_seed(2))


def decoder(name: str) -> Decoder:
    kind = DECODERS[name].Options
    options = kind(**{key: value for key, value in SIZES.items() if hasattr(kind, key)})
    made = build_decoder(
        name,
        options,
        vocabulary_size=VOCABULARY,
        feature_size=7,
        generator=torch.Generator().manual_seed(3),
    )
    return give_attributes(made).double().eval()


def gates_and_cells(model: Decoder, features: Features, words: Tensor) -> list[Sequence[Tensor]]:
    """Return the gates i, f, g, o and the cell of each step of Show and Tell."""
    memory = model.prepare(features)
    h, c = memory.h, memory.c
    inputs = torch.cat([torch.full_like(words[:, :1], START), words[:, :-1]], dim=1)
    found = []
    for word in inputs.unbind(1):
        i, f, g, o = (model.word_inputs(word) + model.recurrent_gates(h)).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        found.append((i, f, g, o, c))
    return found


def test_the_cell_part_is_the_product_of_the_forget_gates(
    features: Features, words: Tensor
) -> None:
    model = decoder("show_tell")
    steps = gates_and_cells(model, features, words)
    *_, o, c = steps[-1]
    logits = model.output(o * c.tanh())
    error = torch.softmax(logits, 1) - nn.functional.one_hot(words[:, -1], VOCABULARY)
    of_hidden = error / len(words) @ model.output.weight
    wanted = of_hidden * o * (1 - c.tanh() ** 2)
    found = cell_gradients(model, features, words, cell_only=True)
    for lag in range(WORDS):
        torch.testing.assert_close(found[-1 - lag].squeeze(1), wanted)
        wanted = wanted * steps[-1 - lag][1]


def test_the_whole_is_the_gradient_that_the_formula_splits(
    features: Features, words: Tensor
) -> None:
    """Of the gates of a step only the candidate's and the input's way lead through its cell."""
    model = decoder("show_tell")
    memory = model.prepare(features)
    inputs = torch.cat([torch.full_like(words[:, :1], START), words[:, :-1]], dim=1)
    x = model.embedding(inputs.t()).detach()
    weights = (model.input_gates.weight, model.recurrent_gates.weight, model.input_gates.bias)
    *_, o, c = gates_and_cells(model, features, words)[-1]
    logits = model.output(o * c.tanh())
    error = torch.softmax(logits, 1) - nn.functional.one_hot(words[:, -1], VOCABULARY)
    grads = torch.zeros(WORDS, len(words), 5, dtype=torch.float64)
    grads[-1] = error / len(words) @ model.output.weight
    for p in (0.0, 0.4):
        paths = gradient_paths(
            *(x, memory.h, memory.c, *weights, None, grads),
            keep=torch.full((WORDS,), 1 - p, dtype=torch.float64),
        )
        whole = cell_gradients(model, features, words, p=p)
        steps = gates_and_cells(model, features, words)
        for lag in range(1, WORDS):
            i, _, g, _, _ = steps[-1 - lag]
            before = steps[-2 - lag] if lag + 1 < WORDS else None
            h = memory.h if before is None else before[3] * before[4].tanh()
            of_candidate = whole[-1 - lag].squeeze(1) * i * (1 - g**2)
            total = paths.cell[lag] + paths.rest[lag]
            torch.testing.assert_close(total[10:15], of_candidate.t() @ h)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_with_a_cell_has_shares(name: str, features: Features, words: Tensor) -> None:
    model = decoder(name)
    shares = cell_shares(model, features, words, [1, 3, 5])
    has_cell = "c" in model.start(model.prepare(features))._fields
    assert list(shares) == ([1, 3, 5] if has_cell else [])
    assert all(0 < share <= 1 for share in shares.values())


def test_h_detach_raises_the_share_where_recurrent_weights_are_large(
    features: Features, words: Tensor
) -> None:
    model = decoder("show_tell")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    plain, thinned = (cell_shares(model, features, words, [1, 3, 5], p) for p in (0.0, 0.5))
    assert all(plain[lag] < thinned[lag] for lag in plain)
