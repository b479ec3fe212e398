"""The fast training pass against the naive one, and single steps against the training pass."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from captioner.attributes import Classifier
from captioner.decoders import (
    DECODERS,
    CaptionBatch,
    Decoder,
    ShowTell,
    SoftAttention,
    Step,
    build_decoder,
    decoder_options,
    soft_attention,
)
from captioner.decoders.interface import dropout
from captioner.engines.torch_engine import select_captions
from captioner.errors import OptionError
from captioner.features import Features
from captioner.hdetach.masks import sample_keep
from captioner.vocabulary import END, START
from tests.decoders.attribute_words import give_attributes
from training.objectives.cross_entropy import caption_loss

_spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(naive)


class PlainShowTell(ShowTell):
    """`step` as a newcomer writes it, and PyTorch's gradients."""

    name = "plain_show_tell"
    forward = Decoder.forward

    def step(self, words, state, memory):  # noqa: ARG002
        gates = self.input_gates(self.embedding(words)) + self.recurrent_gates(state.h)
        h, c = naive.lstm_cell(gates, state.c)
        return Step(self.output(self.drop(h)), state._replace(h=h, c=c), None)


class TwoHiddenStates(NamedTuple):
    h: Tensor  # cut by h-detach
    asking: Tensor  # the same, never cut
    c: Tensor


class PlainSoftAttention(SoftAttention):
    name = "plain_soft_attention"
    forward = Decoder.forward

    def start(self, memory):
        h, c = super().start(memory)
        return TwoHiddenStates(h, h, c)

    def step(self, words, state, memory):
        asking = state.h if self.options.detach_attention else state.asking
        query = self.attention_query(asking).unsqueeze(2)  # [B, K, 1, A]
        hidden_layer = torch.tanh(memory.keys.unsqueeze(1) + query)
        attention = self.attention_score(hidden_layer).squeeze(3).softmax(2)
        context = self.context_gate(asking).sigmoid() * (attention @ memory.value_gates.mT)
        gates = self.word_gates(self.embedding(words)) + context
        h, c = naive.lstm_cell(gates + self.recurrent_gates(state.h), state.c)
        shown = self._over_positions(attention)
        return Step(self.output(self.drop(h)), TwoHiddenStates(h, h, c), shown)


PROJECTING = ("soft_attention", "plain_soft_attention")  # values through weights of gates
PLAIN = (PlainShowTell, PlainSoftAttention)
NAMES = (*DECODERS, *(decoder.name for decoder in PLAIN))
VARIANTS = [
    *((name, {}) for name in NAMES),
    *(
        (name, options)
        for name in PROJECTING
        for options in (
            {"detach_attention": True},
            {"feature_embedding_size": 6},
            {"attributes": 2},
            {"attributes": 3, "feature_embedding_size": 6},
        )
    ),
    ("neuraltalk", {"cell": "lstm"}),
    *(("lstm_attributes", {"variant": variant}) for variant in (1, 2, 3, 4)),
    ("lstm_attributes", {"attributes": 2}),
    ("att_fcn", {"attributes": 3}),
    ("att_fcn", {"hidden_size": 5, "embedding_size": 5}),
]
DETACHABLE = [one for one in VARIANTS if one != ("neuraltalk", {})]  # the others have no cell state
TRAINED = [
    (*variant, p, project_values)
    for variant in VARIANTS
    for p in ((0.0, 0.4, 1.0) if variant in DETACHABLE else (0.0,))
    for project_values in ((True, False) if variant[0] in PROJECTING else (True,))
]
CAPTIONS = [
    [[5, 6, 7], [8]],
    [[4, 5, 6, 7, 8, 9], [10, 4], [9, 9, 9, 9]],
    [[6]],
    [[7, 8, 9, 10, 4], [5, 5, 5, 5, 5], []],
]


@pytest.fixture(autouse=True)
def plain_decoders(monkeypatch):
    for decoder in PLAIN:
        monkeypatch.setitem(DECODERS, decoder.name, decoder)


def make(name, seed=0, dtype=torch.float64, **options):
    sizes = {"hidden_size": 5, "embedding_size": 4, "attention_size": 3, **options}
    generator = torch.Generator().manual_seed(seed)
    decoder = build_decoder(
        name,
        decoder_options(name, sizes),
        vocabulary_size=11,
        feature_size=7,
        generator=generator,
    )
    if isinstance(give_attributes(decoder).attribute_detector, Classifier):
        weight, bias = torch.randn(6, 7, generator=generator), torch.randn(6, generator=generator)
        decoder.attribute_detector.take(weight, bias, [4, 9, None, 7, 9, 5])
    decoder.to(dtype)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2.0)
    grid = torch.randn(len(CAPTIONS), 6, 7, generator=generator, dtype=dtype)
    return decoder, Features(grid)


def gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors, allow_unused=True)


@pytest.mark.parametrize(("name", "options", "p", "project_values"), TRAINED)
def test_loss_and_every_gradient_equal_the_naive_loop(
    name, options, p, project_values, monkeypatch
):
    monkeypatch.setattr(soft_attention, "_projecting_values_is_cheaper", lambda *_: project_values)
    decoder, features = make(name, **options)
    decoder.eval()
    features.grid.requires_grad_()
    batch = CaptionBatch.pack(CAPTIONS)
    keep = sample_keep(batch.steps, p, generator=torch.Generator().manual_seed(3))
    assert 0 < keep.sum() < batch.steps or p != 0.4
    terms = {"label_smoothing": 0.1, "attention_regulariser": 0.7}
    fast = caption_loss(decoder(features, batch, keep=keep), batch, **terms)
    slow = naive.naive_loss(decoder, features.grid, CAPTIONS, keep.tolist(), **terms)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
    names = ["grid", *(name for name, _ in decoder.named_parameters())]
    tensors = [features.grid, *decoder.parameters()]
    for label, ours, theirs in zip(
        names, gradients(fast, tensors), gradients(slow, tensors), strict=True
    ):
        torch.testing.assert_close(
            ours,
            theirs,
            rtol=1e-10,
            atol=1e-14,
            msg=lambda text, label=label: f"gradient of {label}: {text}",
        )


@pytest.mark.parametrize(("name", "options"), DETACHABLE)
def test_detaching_changes_gradients_but_never_the_forward_pass(name, options):
    decoder, features = make(name, **options)
    batch = CaptionBatch.pack(CAPTIONS)
    plain = decoder.eval()(features, batch)
    cut = decoder(features, batch, keep=torch.zeros(batch.steps))
    assert torch.equal(plain.logits, cut.logits)
    parameters = list(decoder.parameters())
    pairs = zip(
        gradients(caption_loss(plain, batch), parameters),
        gradients(caption_loss(cut, batch), parameters),
        strict=True,
    )
    assert any(not torch.allclose(a, b) for a, b in pairs)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_single_steps_give_the_logits_of_the_training_pass(name, options, fold):
    decoder, features = make(name, **options)
    decoder.eval()
    longest = CAPTIONS[1][0]
    captions = [[longest] for _ in CAPTIONS]
    batch = CaptionBatch.pack(captions)
    expected = decoder(features, batch).logits.view(len(longest) + 1, len(captions), -1)
    if fold:
        decoder.fold_words()
        if not name.startswith("plain_"):  # those ask the embedding at every step
            decoder.embedding.weight.data.zero_()
    memory = decoder.prepare(features)
    state = decoder.start(memory)
    state = select_captions(state, torch.zeros(len(captions), 2, dtype=torch.int64))
    for t, word in enumerate([START, *longest]):
        words = torch.full((len(captions), 2), word)
        logits, state, attention = decoder.step(words, state, memory)
        torch.testing.assert_close(logits[:, 0], expected[t])
        torch.testing.assert_close(logits[:, 1], expected[t])
        if attention is not None:
            torch.testing.assert_close(attention.sum(-1), torch.ones(len(captions), 2).double())


def test_packing_holds_every_word_once_and_none_for_padding():
    batch = CaptionBatch.pack(CAPTIONS)
    assert len(batch.image_order) == 4
    assert batch.num_captions == 9
    assert batch.num_tokens == sum(len(c) + 1 for of in CAPTIONS for c in of)
    rows = [[START, *c] + [None] * 9 for b in batch.image_order.tolist() for c in CAPTIONS[b]]
    images = [place for place, b in enumerate(batch.image_order.tolist()) for _ in CAPTIONS[b]]
    targets = [[*c, END] for b in batch.image_order.tolist() for c in CAPTIONS[b]]
    for t, step in enumerate(batch.timeline):
        alive = [r for r in range(9) if len(targets[r]) > t]
        assert batch.words[batch.word_index[step.tokens]].tolist() == [rows[r][t] for r in alive]
        assert batch.targets[step.tokens].tolist() == [targets[r][t] for r in alive]
        assert step.images.tolist() == [images[r] for r in alive]
        spread = step.to_grid(torch.arange(1.0, step.rows + 1).unsqueeze(1))
        assert torch.equal(step.from_grid(spread).flatten(), torch.arange(1.0, step.rows + 1))
        for place in range(step.active_images):
            held = [float(k + 1) for k, r in enumerate(alive) if images[r] == place]
            assert [v for v in spread[place].flatten().tolist() if v] == held


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    dropped = dropout(torch.ones(1001, 999), rate, True, torch.Generator().manual_seed(0))
    kept = dropped != 0
    assert set(dropped[kept].tolist()) == {torch.tensor(1 / (1 - rate)).item()}
    deviation = (rate * (1 - rate) / dropped.numel()) ** 0.5
    assert abs((~kept).double().mean() - rate) < 5 * deviation
    # Neighbours that share a draw are independent.
    for lag in (1, 2, 3, 4):
        both = (kept.flatten()[lag:] & kept.flatten()[:-lag]).double().mean()
        assert abs(both - (1 - rate) ** 2) < 10 * deviation


@pytest.mark.parametrize("name", NAMES)
def test_dropout_comes_from_its_generator_alone(name):
    decoder, features = make(name, dtype=torch.float32)
    batch = CaptionBatch.pack(CAPTIONS)

    def run(seed):
        return decoder.train()(features, batch, generator=torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first = run(5).logits
    torch.manual_seed(2)
    assert torch.equal(first, run(5).logits)
    assert not torch.equal(first, run(6).logits)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_products_stay_close(name):
    decoder, features = make(name, dtype=torch.float32)
    batch = CaptionBatch.pack(CAPTIONS)
    parameters = list(decoder.eval().parameters())
    exact = caption_loss(decoder(features, batch), batch)
    rounded = caption_loss(decoder(features, batch, product_dtype=torch.bfloat16), batch)
    assert exact != rounded
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)
    for ours, theirs in zip(
        gradients(rounded, parameters), gradients(exact, parameters), strict=True
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.05 * theirs.norm() + 1e-6


def test_a_second_derivative_is_refused():
    decoder, features = make("soft_attention")
    batch = CaptionBatch.pack(CAPTIONS)
    loss = caption_loss(decoder.eval()(features, batch), batch)
    weight = decoder.recurrent_gates.weight
    (first,) = torch.autograd.grad(loss, [weight], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_initial_weights_come_from_the_generator():
    first, _ = make("soft_attention", seed=1)
    again, _ = make("soft_attention", seed=1)
    other, _ = make("soft_attention", seed=2)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.any() or not torch.equal(a, c)


def test_bad_options_are_named():
    with pytest.raises(OptionError, match="decoder is 'gru'; choose one of soft_attention, show_t"):
        build_decoder("gru", vocabulary_size=4, feature_size=4)
    with pytest.raises(OptionError, match=r"dropout is 1\.0"):
        decoder_options("show_tell", {"dropout": 1.0})
    with pytest.raises(OptionError, match="attention-size is 0; it must be at least 1"):
        decoder_options("soft_attention", {"attention_size": 0})
    decoder, features = make("show_tell")
    with pytest.raises(OptionError, match=r"keep has shape \(2,\); the batch has 7 steps"):
        decoder(features, CaptionBatch.pack(CAPTIONS), keep=torch.ones(2))


def test_a_state_without_h_cannot_be_detached():
    class State(NamedTuple):
        prefix: Tensor

    decoder, _ = make("show_tell")
    with pytest.raises(OptionError, match=r"show_tell has no hidden state to detach; .* --p 0"):
        decoder.detached(State(torch.zeros(1)))
