"""What no other test sees of decoders that read attributes: batches without a photograph."""

import pytest
import torch

from captioner.decoders import CaptionBatch, Decoder, build_decoder, decoder_options
from captioner.features import Features
from tests.decoders.attribute_words import give_attributes

CAPTIONS = [[[5, 6, 7], [8]], [[4, 5, 6, 7, 8, 9], [10, 4], []]]
SCORES = torch.tensor([[0.9, 0.0, 0.3, 0.0, 0.01, 0.0, 0.02], [0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.1]])


def made(name: str, **options: object) -> Decoder:
    chosen = decoder_options(name, {"hidden_size": 5, "embedding_size": 4, **options})
    decoder = build_decoder(name, chosen, vocabulary_size=11, feature_size=7)
    return give_attributes(decoder, words=7).double().eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("lstm_attributes", {"variant": variant}) for variant in range(1, 6)),
        ("att_fcn", {"attributes": 2}),
    ],
)
def test_attributes_that_are_given_stand_in_for_a_photograph(
    name: str, options: dict[str, object]
) -> None:
    decoder, batch = made(name, **options), CaptionBatch.pack(CAPTIONS)
    none, zero = torch.zeros(2, 0, 7).double(), torch.zeros(2, 6, 7).double()
    given = decoder(Features(none, SCORES.double()), batch).logits
    assert given.isfinite().all()
    # A photograph whose features are zero looks the same, and other attributes do not.
    torch.testing.assert_close(given, decoder(Features(zero, SCORES.double()), batch).logits)
    others = decoder(Features(none, SCORES.double().flip(0)), batch).logits
    assert not torch.allclose(given, others)


def test_only_the_most_probable_attributes_are_read() -> None:
    few, every = made("lstm_attributes", attributes=2), made("lstm_attributes")
    every.load_state_dict(few.state_dict())
    batch, grid = CaptionBatch.pack(CAPTIONS), torch.ones(2, 6, 7).double()
    cut = SCORES.double().where(SCORES >= 0.1, 0.0)
    expected = every(Features(grid, cut), batch).logits
    torch.testing.assert_close(few(Features(grid, SCORES.double()), batch).logits, expected)
    assert not torch.allclose(every(Features(grid, SCORES.double()), batch).logits, expected)
