"""The visual sentinel: at beta = 1 the language model is alone, and beta is shown for each word."""

import torch
from torch import Tensor

from captioner.decoders import CaptionBatch, Decoder, build_decoder, decoder_options
from captioner.decoders.adaptive_attention import AdaptiveAttention
from captioner.features import Features
from captioner.vocabulary import START

CAPTIONS = [[[5, 6, 7], [8]], [[4, 4, 6, 5, 8]]]


def make() -> Decoder:
    decoder = build_decoder(
        "adaptive_attention",
        decoder_options(
            "adaptive_attention", {"hidden_size": 6, "embedding_size": 4, "attention_size": 5}
        ),
        vocabulary_size=9,
        feature_size=3,
        generator=torch.Generator().manual_seed(2),
    )
    decoder.double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3.0)
    return decoder


def grids(count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)


def prefer_the_sentinel(decoder: Decoder, by: float) -> None:
    """Make the sentinel's score exceed those of all positions by this and more."""
    with torch.no_grad():
        decoder.embed_features.bias.fill_(50.0)  # no position is all zeros
        decoder.attention_keys.weight.fill_(-50.0)
        decoder.sentinel_key.weight.zero_()
        decoder.attention_query.weight.zero_()
        decoder.attention_query.bias.zero_()
        decoder.attention_score.weight.fill_(by / 5)


def alone(decoder: Decoder, image: Tensor, caption: list[int]) -> Tensor:
    """The language model that knows the mean feature and has nothing to look at."""
    d = decoder
    h = c = image.new_zeros(6)
    logits = []
    for word in [START, *caption]:
        x = d.word_gates(d.embedding(torch.tensor(word)))
        seen = d.image_gates(torch.relu(d.embed_image(image.mean(0))))
        i, f, g, o, of_sentinel = (x + seen + d.recurrent_gates(h)).chunk(5)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        logits.append(d.output(torch.sigmoid(of_sentinel) * torch.tanh(c) + h))
    return torch.stack(logits)


def test_at_beta_1_the_language_model_is_alone() -> None:
    decoder = make()
    grid = grids()
    batch = CaptionBatch.pack(CAPTIONS)
    looking = decoder(Features(grid), batch).logits
    prefer_the_sentinel(decoder, by=5000.0)
    grid.requires_grad_()
    logits = decoder(Features(grid), batch).logits
    captions = [(b, caption) for b in batch.image_order.tolist() for caption in CAPTIONS[b]]
    each = [alone(decoder, grid[b], caption) for b, caption in captions]
    expected = [one[t] for t in range(batch.steps) for one in each if t < len(one)]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(logits, looking)
    # So only the mean of the features counts: each position has the same part in it.
    (grad,) = torch.autograd.grad(logits.sum(), [grid])
    assert grad.abs().max() > 0
    torch.testing.assert_close(grad, grad.mean(1, keepdim=True).expand_as(grad))

    memory = decoder.prepare(Features(grid))
    attention = decoder.step(torch.full((2, 1), START), decoder.start(memory), memory).attention
    assert torch.equal(attention[..., -1], torch.ones(2, 1, dtype=torch.float64))


def test_beta_is_the_last_weight_of_a_step_and_takes_from_the_positions() -> None:
    decoder, grid = make(), grids()
    assert isinstance(decoder, AdaptiveAttention)
    memory = decoder.prepare(Features(grid))
    words = torch.tensor([[5, 6], [7, 8]])
    state = decoder.start(memory)
    state = type(state)(*(part.expand(-1, 2, -1) for part in state))
    attention = decoder.step(words, state, memory).attention
    assert attention.shape == (2, 2, 4 + len(decoder.share_names))
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    with torch.no_grad():
        least = -100.0 * decoder.attention_score.weight.sign()
        memory = memory._replace(keys=memory.keys + least)  # nothing to be seen
    closed = decoder.step(words, state, memory).attention
    assert (closed[..., -1] > attention[..., -1]).all()
