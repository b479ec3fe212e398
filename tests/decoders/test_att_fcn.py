"""What no other test of decoders sees of semantic attention: its penalty."""

import pytest
import torch

from captioner.decoders import CaptionBatch, build_decoder, decoder_options
from captioner.decoders.att_fcn import attention_penalty
from captioner.features import Features
from captioner.vocabulary import START
from tests.decoders.attribute_words import give_attributes
from tests.decoders.naive_attributes import probabilities

OPTIONS = {"hidden_size": 5, "embedding_size": 4, "attributes": 3, "dropout": 0.0}
CAPTIONS = [[[5, 6, 7], [8]], [[4, 5, 6, 7, 8, 9], [10, 4], []]]


def test_the_penalty_is_the_sum_of_both_norms_of_every_caption() -> None:
    batch = CaptionBatch.pack(CAPTIONS)
    generator = torch.Generator().manual_seed(1)
    attention = torch.randn(batch.num_tokens, 3, generator=generator).double().softmax(1)
    rows = batch.captions_of_tokens().tolist()
    total = 0.0
    for caption in range(batch.num_captions):
        steps = [attention[k].tolist() for k in range(batch.num_tokens) if rows[k] == caption]
        total += sum(sum(step[i] for step in steps) ** 2 for i in range(3)) ** 0.5
        total += sum(sum(weight**0.5 for weight in step) ** 2 for step in steps)
    found = attention_penalty(attention, batch)
    assert float(found) == pytest.approx(total / batch.num_captions, rel=1e-12)


def test_the_penalty_is_least_where_each_step_looks_at_another_attribute() -> None:
    batch = CaptionBatch.pack([[[5, 6]]])
    one_each = torch.eye(3).double()
    found = [
        float(attention_penalty(attention, batch))
        for attention in (one_each, one_each[[0, 0, 0]], torch.full((3, 3), 1 / 3).double())
    ]
    assert found[0] == min(found)
    assert found == pytest.approx([3**0.5 + 3, 3 + 3, 3**0.5 + 9], abs=1e-4)


def test_a_term_only_in_training_and_only_where_it_is_asked_for() -> None:
    features = Features(torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(2)))
    batch = CaptionBatch.pack(CAPTIONS)
    for weight, is_training, expected in ((0.5, True, 1), (0.5, False, 0), (0.0, True, 0)):
        chosen = decoder_options("att_fcn", {**OPTIONS, "attribute_penalty": weight})
        decoder = build_decoder("att_fcn", chosen, vocabulary_size=11, feature_size=7)
        terms = give_attributes(decoder).train(is_training)(features, batch).terms
        assert len(terms) == expected
        if terms:
            terms["attribute_penalty"].backward()
            assert decoder.input_attention.weight.grad.any()
            assert decoder.output_attention.weight.grad.any()


def test_a_step_shows_how_much_of_the_prediction_came_from_each_attribute() -> None:
    chosen = decoder_options("att_fcn", OPTIONS)
    decoder = build_decoder("att_fcn", chosen, vocabulary_size=11, feature_size=7)
    give_attributes(decoder, words=7).double().eval()
    grid = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        memory = decoder.prepare(Features(grid))
        found = decoder.attributes(memory)
        step = decoder.step(torch.full((2, 1), START), decoder.start(memory), memory)
        for image in range(2):
            known = [float(one) for one in probabilities(decoder, grid[image])]
            places = sorted(range(7), key=lambda place: -known[place])[:3]
            assert found.words[image].tolist() == [4 + place for place in places]
            assert found.probabilities[image].tolist() == pytest.approx(sorted(known)[:3:-1])
            activated = torch.tanh(decoder.to_hidden(decoder.embedding(found.words[image])))
            scores = activated @ decoder.output_attention.weight.t() @ step.state.h[image, 0]
            torch.testing.assert_close(step.attention[image, 0], scores.softmax(0))
