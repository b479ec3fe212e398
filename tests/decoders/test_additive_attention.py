"""Scores and gradients of the attention against autograd on the formula itself."""

import pytest
import torch

from captioner.decoders.additive_attention import (
    AdditiveAttention,
    CompiledAttention,
    TorchAttention,
    additive_attention,
    score_keys,
)
from captioner.decoders.batch import CaptionBatch

CAPTIONS = [[[5] * 4, [5]], [[5] * 7, [5] * 6, []], [[5]], [[5] * 2, [5] * 2]]


def tensors(size: int, positions: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(size)

    def draw(*shape: int) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_()

    tokens = CaptionBatch.pack(CAPTIONS).num_tokens
    return [draw(len(CAPTIONS), positions, size), draw(tokens, size), draw(size)]


@pytest.fixture(params=[TorchAttention, CompiledAttention])
def kind(request: pytest.FixtureRequest) -> type[AdditiveAttention]:
    if request.param is CompiledAttention and not CompiledAttention.takes(torch.zeros(1)):
        pytest.skip("the kernels cannot be compiled here")
    chosen: type[AdditiveAttention] = request.param
    return chosen


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 7, 16, 33])
@pytest.mark.usefixtures("threads")
def test_scores_and_gradients_equal_autograd(kind: type[AdditiveAttention], size: int) -> None:
    batch = CaptionBatch.pack(CAPTIONS)
    keys, queries, score = tensors(size)
    weights = torch.randn(batch.num_tokens, keys.shape[1], dtype=torch.float64)
    wanted_scores = torch.cat(
        [
            torch.tanh(keys[step.images] + queries[step.tokens, None]) @ score
            for step in batch.timeline
        ]
    )
    wanted = torch.autograd.grad((wanted_scores * weights).sum(), (keys, queries, score))

    with torch.no_grad():
        look = kind(keys, score, batch.num_captions)
        found_scores = torch.cat([look.scores(queries[s.tokens], s) for s in batch.timeline])
        look.start_backward()
        grad_queries = [
            look.backward(queries[s.tokens], weights[s.tokens], s) for s in batch.timeline
        ]
        grad_keys, grad_score = look.gradients()
    torch.testing.assert_close(found_scores - score.sum(), wanted_scores, rtol=0, atol=1e-12)
    # The formula without its constant has this gradient; a softmax never sees the difference.
    constant = weights.sum()
    torch.testing.assert_close(grad_keys, wanted[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(grad_queries), wanted[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(grad_score - constant, wanted[2], rtol=0, atol=1e-11)


def test_saturated_units_are_no_nan(kind: type[AdditiveAttention]) -> None:
    batch = CaptionBatch.pack([[[5]]])
    step = batch.timeline[0]
    keys = torch.tensor([[[1e4, -1e4, 1e4, 0.0]]])
    query = torch.tensor([[1e4, -1e4, -1e4, 0.0]])
    look = kind(keys, torch.tensor([1.0, 1.0, 1.0, 1.0]), 1)
    assert look.scores(query, step).tolist() == [[2.0 + 2 * 0.5 + 1.0]]
    look.start_backward()
    grad_query = look.backward(query, torch.ones(1, 1), step)
    torch.testing.assert_close(grad_query, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))


def test_one_step_alone_gives_the_same_scores() -> None:
    batch = CaptionBatch.pack(CAPTIONS)
    keys, queries, score = (one.detach() for one in tensors(9))
    look = additive_attention(keys, score, batch.num_captions)
    for step in batch.timeline:
        alone = score_keys(keys[step.images], queries[step.tokens, None], score)
        torch.testing.assert_close(look.scores(queries[step.tokens], step), alone)


@pytest.mark.parametrize("operand", ["keys", "query", "score"])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1, -(1 << 22)])
def test_nan_of_every_bit_pattern_reaches_scores_and_gradients(
    kind: type[AdditiveAttention], operand: str, bits: int
) -> None:
    batch = CaptionBatch.pack(CAPTIONS)
    keys, queries, score = (one.detach().float() for one in tensors(7))
    step = batch.timeline[0]
    spoiled = {"keys": keys, "query": queries, "score": score}[operand]
    spoiled.view(-1)[0] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert spoiled.isnan().sum() == 1
    look, query = kind(keys, score, batch.num_captions), queries[step.tokens]
    expected = torch.tanh(keys[step.images] + query[:, None]) @ score
    assert torch.equal(look.scores(query, step).isnan(), expected.isnan())
    look.start_backward()
    found = look.backward(query, torch.ones_like(expected), step)
    assert found.isnan().any()
    assert torch.stack([one.isnan().any() for one in look.gradients()]).any()
