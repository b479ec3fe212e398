"""Hard attention: its training pass against a loop, and its gradient against all possible draws."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from captioner.decoders import CaptionBatch, Decoder, build_decoder, decoder_options, hard_attention
from captioner.decoders.attention_lstm import Locations
from captioner.decoders.hard_attention import draw_locations
from captioner.features import Features
from captioner.hdetach.masks import sample_keep
from captioner.vocabulary import END, START
from training.objectives.cross_entropy import caption_loss, with_terms

VOCABULARY = 9
CAPTIONS = [[[5, 6], [7]], [[8, 5, 6, 7]], [[6], [], [5, 5, 5]]]
IS_DRAWN = [True, False, True]  # of the images


def make(**options: object) -> Decoder:
    sizes = {"hidden_size": 4, "embedding_size": 3, "attention_size": 5, "dropout": 0.0, **options}
    decoder = build_decoder(
        "hard_attention",
        decoder_options("hard_attention", sizes),
        vocabulary_size=VOCABULARY,
        feature_size=6,
        generator=torch.Generator().manual_seed(4),
    )
    decoder.begin_training(torch.Generator())
    decoder.double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3.0)
    return decoder.train()


def grid(images: int, positions: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(images, positions, 6, generator=generator, dtype=torch.float64)


def naive_caption(
    decoder: Decoder, values: Tensor, caption: list[int], keep: list[float], draws: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Read one caption; a draw of -1 looks at the mean.

    Return the log-probability of each right word, and of each drawn position (0 where none is), and
    the entropy of each attention: three of [words + 1].
    """
    d = decoder
    h, c = torch.tanh(d.initial_state(values.mean(0))).chunk(2)
    words, locations, entropies = [], [], []
    for t, (word, target) in enumerate(zip([START, *caption], [*caption, END], strict=True)):
        keys = torch.tanh(d.attention_keys(values) + d.attention_query(h))
        alpha = torch.softmax(d.attention_score(keys).squeeze(1), dim=0)
        if draws[t] < 0:
            looked, location = alpha @ values, alpha.new_zeros(())
        else:
            place, below = 0, alpha[0].item()
            while below <= draws[t]:
                place += 1
                below += alpha[place].item()
            looked, location = values[place], alpha[place].log()
        context = torch.sigmoid(d.context_gate(h)) * looked
        entering = h if keep[t] else h.detach()
        gates = d.word_gates(d.embedding(torch.tensor(word))) + d.context_gates(context)
        i, f, g, o = (gates + d.recurrent_gates(entering)).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        words.append(torch.log_softmax(d.output(h), dim=0)[target])
        locations.append(location)
        entropies.append(-(alpha * alpha.log()).sum())
    return torch.stack(words), torch.stack(locations), torch.stack(entropies)


def places(batch: CaptionBatch) -> dict[tuple[int, int, int], int]:
    """Return where each image's captions' steps stand among the tokens of a batch."""
    rows = [(b, k) for b in batch.image_order.tolist() for k in range(len(CAPTIONS[b]))]
    tokens = [
        (b, k, t)
        for t in range(batch.steps)
        for b, k in rows
        if t < len(CAPTIONS[b][k]) + 1  # the end is a token, too
    ]
    return {token: place for place, token in enumerate(tokens)}


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_loss_terms_and_every_gradient_equal_the_naive_loop(
    p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make(reinforce_weight=0.7, attention_entropy=0.3)
    batch, features = CaptionBatch.pack(CAPTIONS), grid(3, 4).requires_grad_()
    keep = sample_keep(batch.steps, p, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(6)
    uniform = torch.rand(batch.num_tokens, generator=generator, dtype=torch.float64)
    baseline = decoder.training_part.log_likelihood.item()
    assert baseline == pytest.approx(-math.log(VOCABULARY))
    at = places(batch)
    is_drawn = torch.tensor([IS_DRAWN[b] for b, _, _ in at])
    monkeypatch.setattr(hard_attention, "draw_locations", lambda *_: Locations(is_drawn, uniform))
    output = decoder(Features(features), batch, keep=keep)
    fast, figures = with_terms(caption_loss(output, batch), output)

    slow, drawn_words = features.new_zeros(()), []
    for b, of_image in enumerate(CAPTIONS):
        for k, caption in enumerate(of_image):
            steps = range(len(caption) + 1)
            draws = [float(uniform[at[b, k, t]]) if IS_DRAWN[b] else -1.0 for t in steps]
            words, locations, entropies = naive_caption(
                decoder, features[b], caption, keep.tolist(), draws
            )
            reward = words.sum().item() - len(words) * baseline
            slow = slow - words.sum() - 0.7 * reward * locations.sum() - 0.3 * entropies.sum()
            drawn_words += words.tolist() if IS_DRAWN[b] else []
    slow = slow / batch.num_tokens
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    names = ["grid", *(name for name, _ in decoder.named_parameters())]
    tensors = [features, *decoder.parameters()]
    pairs = (torch.autograd.grad(loss, tensors) for loss in (fast, slow))
    for name, ours, theirs in zip(names, *pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    assert set(figures) >= {"cross_entropy", "reinforced", "rewarded_entropy"}
    assert figures["location_baseline"] == pytest.approx(baseline)
    expected = 0.9 * baseline + 0.1 * sum(drawn_words) / len(drawn_words)
    assert decoder.training_part.log_likelihood.item() == pytest.approx(expected)


@pytest.mark.parametrize("baseline", [0.0, -1.7])
def test_the_mean_of_the_estimate_is_the_gradient_of_the_expected_log_likelihood(
    baseline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make(reinforce_weight=1.0, attention_entropy=0.0)
    features, caption = grid(1, 2), [5, 7]
    batch = CaptionBatch.pack([[caption]])
    parameters = list(decoder.parameters())
    # Of two positions a draw of 0 takes the first and one of nearly 1 the second.
    paths = list(itertools.product([0.0, 1.0 - 1e-9], repeat=batch.num_tokens))
    expected = features.new_zeros(())
    mean = [torch.zeros_like(parameter) for parameter in parameters]
    for path in paths:
        words, locations, _ = naive_caption(decoder, features[0], caption, [1.0] * 3, list(path))
        probability = locations.sum().exp()
        expected = expected + probability * words.sum() / batch.num_tokens
        every = torch.ones(batch.num_tokens, dtype=torch.bool)
        chosen = Locations(every, torch.tensor(path, dtype=torch.float64))
        monkeypatch.setattr(hard_attention, "draw_locations", lambda *_, chosen=chosen: chosen)
        decoder.training_part.log_likelihood.fill_(baseline)
        output = decoder(Features(features), batch)
        loss, _ = with_terms(caption_loss(output, batch), output)
        for total, grad in zip(mean, torch.autograd.grad(loss, parameters), strict=True):
            total += probability.detach() * grad
    exact = torch.autograd.grad(-expected, parameters)
    for (name, _), ours, theirs in zip(decoder.named_parameters(), mean, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12, msg=name)
    # It is REINFORCE that teaches the attention: without it there is no gradient at all.
    decoder.options.__dict__["reinforce_weight"] = 0.0
    output = decoder(Features(features), batch)
    loss, _ = with_terms(caption_loss(output, batch), output)
    (grad,) = torch.autograd.grad(loss, [decoder.attention_score.weight])
    assert not grad.any()
    assert exact[[n for n, _ in decoder.named_parameters()].index("attention_score.weight")].any()


def test_positions_are_drawn_by_their_weights_and_images_by_the_share() -> None:
    batch = CaptionBatch.pack([[[5] * 9] * 10] * 40)
    draws = torch.Generator().manual_seed(7)
    locations = draw_locations(batch, 0.25, draws, torch.float64)
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    chosen, looked = locations.choose(weights.repeat(batch.num_tokens, 1), slice(None))
    share = torch.bincount(chosen, minlength=5) / batch.num_tokens
    torch.testing.assert_close(share.double(), weights, rtol=0, atol=0.03)
    assert not share[1]
    assert not share[4]
    assert torch.equal(looked[locations.is_drawn].argmax(1), chosen[locations.is_drawn])
    assert torch.equal(looked[~locations.is_drawn][0], weights)
    by_image = [
        locations.is_drawn[batch.images_of_tokens() == image].unique() for image in range(40)
    ]
    assert all(len(one) == 1 for one in by_image)
    assert 0.5 < torch.cat(by_image).double().mean() < 0.95


def test_draws_come_from_their_generator_and_not_at_all_in_evaluation() -> None:
    decoder, batch, features = make(soft_share=0.0), CaptionBatch.pack(CAPTIONS), grid(3, 4)

    def run(seed: int) -> Tensor:
        draws = torch.Generator().manual_seed(seed)
        return decoder(Features(features), batch, draws=draws).logits

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    soft = build_decoder(
        "soft_attention",
        decoder_options("soft_attention", decoder.options.to_json()),
        vocabulary_size=VOCABULARY,
        feature_size=6,
    ).double()
    soft.load_state_dict(decoder.captioning_state())
    output = decoder.eval()(Features(features), batch)
    assert torch.equal(output.logits, soft.eval()(Features(features), batch).logits)
    assert not output.terms
