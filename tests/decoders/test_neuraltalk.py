"""NeuralTalk: the image enters once, at the first step; and there is no cell state to protect."""

import pytest
import torch

from captioner.decoders import CaptionBatch, Decoder, build_decoder, decoder_options
from captioner.errors import OptionError
from captioner.features import Features
from captioner.vocabulary import START
from training.config import TrainingConfig

WORDS = [START, 5, 6, 7]


def make(name: str = "neuraltalk", **options: object) -> Decoder:
    sizes = {"hidden_size": 6, "embedding_size": 5, **options}
    return build_decoder(
        name,
        decoder_options(name, sizes),
        vocabulary_size=9,
        feature_size=4,
        generator=torch.Generator().manual_seed(2),
    ).eval()


def images(seed: int) -> Features:
    return Features(torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def logits(decoder: Decoder, seeds: list[int]) -> list[torch.Tensor]:
    """Read WORDS; each step is shown the image of one seed."""
    state = decoder.start(decoder.prepare(images(seeds[0])))
    found = []
    for word, seed in zip(WORDS, seeds, strict=True):
        memory = decoder.prepare(images(seed))
        result = decoder.step(torch.tensor([[word]]), state, memory)
        state = result.state
        found.append(result.logits[0, 0])
    return found


def test_the_image_enters_at_the_first_step_alone():
    decoder = make()
    first = logits(decoder, [0, 0, 0, 0])
    for one, other in zip(first, logits(decoder, [0, 1, 2, 3]), strict=True):
        assert torch.equal(one, other)
    # What it left in the hidden state is all that later words know of it.
    for one, other in zip(first, logits(decoder, [1, 0, 0, 0]), strict=True):
        assert not torch.allclose(one, other)


def test_with_an_lstm_it_is_show_and_tell():
    ours, theirs = make(cell="lstm"), make("show_tell")
    theirs.load_state_dict(ours.state_dict())
    batch = CaptionBatch.pack([[WORDS[1:], [8]]])
    assert torch.equal(ours(images(0), batch).logits, theirs(images(0), batch).logits)


def test_h_detach_needs_the_cell_state_of_an_lstm():
    chosen = {"decoder": "neuraltalk", "p": 0.25}
    with pytest.raises(OptionError, match="leave --p at 0, or give --cell lstm") as caught:
        TrainingConfig.from_json(chosen)
    assert "\n" not in str(caught.value)
    assert TrainingConfig.from_json({**chosen, "cell": "lstm"}).p == 0.25
    assert TrainingConfig.from_json({**chosen, "p": 0.0}).part("decoder").cell == "rnn"
    batch = CaptionBatch.pack([[[5]]])
    with pytest.raises(OptionError, match="leave --p at 0"):
        make()(images(0), batch, keep=torch.zeros(batch.steps))
