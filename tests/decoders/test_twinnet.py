"""The twin: what it reads, what it teaches, what it is not moved by, and that it is gone."""

import pytest
import torch
from torch import Tensor

from captioner.decoders import CaptionBatch, Decoder, build_decoder, decoder_options
from captioner.decoders.twinnet import BackwardTwin
from captioner.features import Features
from captioner.vocabulary import END, START
from tests.decoders.attribute_words import give_attributes
from tests.decoders.naive import naive_attention, naive_show_tell

CAPTIONS = [
    [[5, 6, 7], [8]],
    [[4, 5, 6, 7, 8, 9], [10, 4], [9, 9, 9, 9]],
    [[6]],
    [[7, 8, 9, 10, 4], [5, 5, 5, 5, 5], []],
]
KEEP = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
TWINNED = [
    ("twinnet", {}),
    ("twinnet_attention", {"attention_size": 3}),
    ("twinnet_attention", {"attention_size": 3, "attributes": 2}),
]


def made(name: str, **options: object) -> tuple[Decoder, Features]:
    """Return a decoder in training, without dropout, and features of the captions' images."""
    generator = torch.Generator().manual_seed(4)
    sizes = {"hidden_size": 5, "embedding_size": 4, "dropout": 0.0, "twin_weight": 0.7}
    decoder = build_decoder(
        name,
        decoder_options(name, {**sizes, **options}),
        vocabulary_size=11,
        feature_size=7,
        generator=generator,
    )
    give_attributes(decoder).begin_training(generator)
    decoder.double().train()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2.0)
    grid = torch.randn(len(CAPTIONS), 6, 7, generator=generator, dtype=torch.float64)
    return decoder, Features(grid.requires_grad_())


def hidden_states(decoder: Decoder, *given: object) -> Tensor:
    """Return what the naive decoder gives to its output layer at every step."""
    states: list[Tensor] = []
    hook = decoder.output.register_forward_pre_hook(lambda _, seen: states.append(seen[0]))
    run = naive_attention if decoder.has_attention else naive_show_tell
    run(decoder, *given)
    hook.remove()
    return torch.stack(states)


@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_terms_and_every_gradient_equal_those_of_one_caption_after_the_other(
    name: str, options: dict[str, object]
) -> None:
    decoder, features = made(name, **options)
    part = decoder.training_part
    assert isinstance(part, BackwardTwin)
    twin, size = part.twin, 5
    words, likelihood, distance = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for grid, of_image in zip(features.grid, CAPTIONS, strict=True):
        for caption in of_image:
            forward = hidden_states(decoder, grid, caption, KEEP)
            # From the end: the start token, the end token, the last word, ..., the second word.
            after_start = [END, *caption[::-1]][: len(caption)]
            backward = hidden_states(twin, grid, after_start, KEEP)
            predicted = [END, *caption[::-1]]
            log_probs = torch.log_softmax(twin.output(backward), dim=1)
            likelihood = likelihood + log_probs[range(len(predicted)), predicted].sum()
            for t in range(len(caption) + 1):
                foreseen = part.affine.weight @ forward[t] + part.affine.bias
                future = backward[len(caption) - t].detach()
                distance = distance + ((foreseen - future) ** 2).sum() / size
            words += len(predicted)
    slow = {"twin_cross_entropy": -likelihood / words, "twin": 0.7 * distance / words}
    output = decoder(features, CaptionBatch.pack(CAPTIONS), keep=torch.tensor(KEEP))
    assert output.terms.keys() == slow.keys()
    for term, expected in slow.items():
        torch.testing.assert_close(output.terms[term], expected, rtol=1e-12, atol=0)
        tensors = [features.grid, *decoder.parameters()]
        pairs = (
            torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
            for loss in (output.terms[term], expected)
        )
        for tensor, ours, theirs in zip(tensors, *pairs, strict=True):
            zero = torch.zeros_like(tensor)  # where the term does not depend on it
            ours, theirs = (zero if one is None else one for one in (ours, theirs))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_the_distance_moves_the_forward_decoder_and_never_the_twin(
    name: str, options: dict[str, object]
) -> None:
    decoder, features = made(name, **options)
    output = decoder(features, CaptionBatch.pack(CAPTIONS))
    output.terms["twin"].backward()
    part = decoder.training_part
    assert isinstance(part, BackwardTwin)
    assert all(weight.grad is None for weight in part.twin.parameters())
    assert part.affine.weight.grad is not None
    assert part.affine.weight.grad.any()
    assert decoder.recurrent_gates.weight.grad.any()
    assert decoder.output.weight.grad is None


def test_a_twin_is_another_network_with_the_same_attributes() -> None:
    decoder, _ = made("twinnet_attention", attention_size=3, attributes=2)
    part = decoder.training_part
    assert isinstance(part, BackwardTwin)
    assert part.twin.attribute_detector is decoder.attribute_detector
    assert not torch.equal(part.twin.embedding.weight, decoder.embedding.weight)


@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_nothing_is_left_where_captions_are_written(name: str, options: dict[str, object]) -> None:
    decoder, features = made(name, **options)
    batch = CaptionBatch.pack(CAPTIONS)
    plain = build_decoder(
        name, decoder.options, vocabulary_size=decoder.vocabulary_size, feature_size=7
    ).double()
    assert decoder.captioning_state().keys() == plain.state_dict().keys()
    plain.load_state_dict(decoder.captioning_state())
    with torch.no_grad():
        evaluated = decoder.eval()(features, batch)
        assert torch.equal(evaluated.logits, plain.eval()(features, batch).logits)
        assert not evaluated.terms
        assert not plain.train()(features, batch).terms


def test_reading_from_the_end_twice_is_reading_from_the_start() -> None:
    batch = CaptionBatch.pack(CAPTIONS)
    backward, mirror = batch.reversed()
    assert torch.equal(mirror[mirror], torch.arange(batch.num_tokens))
    rows = batch.captions_of_tokens()
    inputs = backward.words[backward.word_index]
    order = [caption for b in batch.image_order.tolist() for caption in CAPTIONS[b]]
    for row, caption in enumerate(order):
        of_row = rows == row
        assert backward.targets[of_row].tolist() == [END, *caption[::-1]]
        assert inputs[of_row].tolist() == [START, END, *caption[::-1]][: len(caption) + 1]
        assert backward.targets[mirror][of_row].tolist() == [*caption, END]
