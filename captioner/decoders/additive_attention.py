"""Scores of additive attention over the steps of a batch, and their gradients.

A score is score . tanh(key + query), one for each position of the image (Bahdanau et al. 2015,
section 3.1). The hidden layer would need as much memory as the rest of a training step, so it is
not stored: the backward pass computes it again. Compiled code does this in registers; without it,
PyTorch does it in one buffer for all steps.
"""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.decoders.batch import CaptionBatch, PackedStep
from captioner.native import library


def score_keys(keys: Tensor, query: Tensor, score: Tensor) -> Tensor:
    """Return the unnormalised attention `score . tanh(keys + query)`, but for a constant.

    tanh(x) = 2 sigmoid(2x) - 1, and a sigmoid is four times quicker on the CPU; the constant
    -sum(score) is the same at every position, so the softmax does not see it.

    Shapes:
        keys [..., P, A], query [..., 1, A], score [A] -> [..., P].
    """
    if torch.onnx.is_in_onnx_export():
        # Fewer operators that read all keys; and ONNX Runtime is slow where the matrix on the
        # right has a single column.
        hidden = torch.tanh(keys + query)
        return (score.view(1, 1, 1, -1) @ hidden.transpose(-1, -2)).squeeze(-2)
    return (torch.sigmoid(2.0 * (keys + query)) * (2.0 * score)).sum(-1)


class AdditiveAttention(ABC):
    """`score_keys` for the packed rows of each step, differentiated by hand.

    exp(-2 (k + q)) = exp(-2 k) exp(-2 q): with keys exponentiated once per image and queries once
    per row, an element of the hidden layer costs a multiplication, an addition and a division.
    """

    def __init__(self, keys: Tensor, score: Tensor, num_captions: int) -> None:
        self._keys = _exponential(keys)
        self._doubled_score = 2.0 * score
        self._num_captions = num_captions

    @abstractmethod
    def scores(self, query: Tensor, step: PackedStep) -> Tensor:
        """Return the scores of a step's rows: query [rows, A] -> [rows, P]."""

    def start_backward(self) -> None:
        """Forget the gradients."""
        self.grad_keys = torch.zeros_like(self._keys)
        self.grad_score = torch.zeros_like(self._doubled_score)

    @abstractmethod
    def backward(self, query: Tensor, grad_scores: Tensor, step: PackedStep) -> Tensor:
        """Add a step to the gradients of keys and score; return that of its query [rows, A]."""

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of keys [B, P, A] and score [A] over all steps."""
        return self.grad_keys.mul_(2.0 * self._doubled_score), 2.0 * self.grad_score


class TorchAttention(AdditiveAttention):
    def __init__(self, keys: Tensor, score: Tensor, num_captions: int) -> None:
        super().__init__(keys, score, num_captions)
        self._layer = keys.new_empty(num_captions, *keys.shape[1:])

    def scores(self, query: Tensor, step: PackedStep) -> Tensor:
        return self._hidden_layer(query, step) @ self._doubled_score

    def start_backward(self) -> None:
        super().start_backward()
        self._slope = torch.empty_like(self._layer)

    def backward(self, query: Tensor, grad_scores: Tensor, step: PackedStep) -> Tensor:
        active, steep = self._hidden_layer(query, step), self._slope[: step.rows]
        self.grad_score += active.view(-1, active.shape[2]).t() @ grad_scores.reshape(-1)
        torch.ops.aten.sigmoid_backward(
            grad_scores.unsqueeze(-1).expand_as(active), active, grad_input=steep
        )
        self.grad_keys.index_add_(0, step.images, steep)
        return steep.sum(1).mul_(2.0 * self._doubled_score)

    def _hidden_layer(self, query: Tensor, step: PackedStep) -> Tensor:
        """Return sigmoid(2 (keys + query)), in the one buffer: [rows, P, A]."""
        active = self._layer[: step.rows]
        torch.index_select(self._keys, 0, step.images, out=active)
        one = active.new_ones(())
        torch.addcmul(one, active, _exponential(query).unsqueeze(1), out=active)
        return active.reciprocal_()


class CompiledAttention(AdditiveAttention):
    """The same in C++, for the CPU: captioner/native/source/attention.cpp."""

    def __init__(self, keys: Tensor, score: Tensor, num_captions: int) -> None:
        super().__init__(keys, score, num_captions)
        self._threads = torch.get_num_threads()
        self._scores = library.function("attention_scores", keys.dtype)
        self._gradients = library.function("attention_gradients", keys.dtype)

    @classmethod
    def takes(cls, keys: Tensor) -> bool:
        is_known = keys.device.type == "cpu" and keys.dtype in (torch.float32, torch.float64)
        return is_known and library.why_missing() is None

    def scores(self, query: Tensor, step: PackedStep) -> Tensor:
        found = query.new_empty(step.rows, self._keys.shape[1])
        self._run(self._scores, query, step, self._doubled_score, found)
        return found

    def start_backward(self) -> None:
        super().start_backward()
        self._grad_score = self.grad_score.new_zeros(self._threads, len(self.grad_score))

    def backward(self, query: Tensor, grad_scores: Tensor, step: PackedStep) -> Tensor:
        grad_query = torch.empty(query.shape, dtype=query.dtype)
        grad_scores = grad_scores.contiguous()
        self._run(
            *(self._gradients, query, step),
            *(grad_scores, grad_query, self.grad_keys, self._grad_score),
        )
        return grad_query.mul_(2.0 * self._doubled_score)

    def gradients(self) -> tuple[Tensor, Tensor]:
        self.grad_score += self._grad_score.sum(0)
        return super().gradients()

    def _run(
        self, function: Callable[..., Any], query: Tensor, step: PackedStep, *tensors: Tensor
    ) -> None:
        queries = _exponential(query).contiguous()
        call = library.pack_call(
            "attention",
            rows=step.rows,
            positions=self._keys.shape[1],
            size=self._keys.shape[2],
            threads=self._threads,
            image_of_row=step.images,
            keys=self._keys,
            queries=queries,
        )
        function(call, *(ctypes.c_void_p(one.data_ptr()) for one in tensors))


def additive_attention(keys: Tensor, score: Tensor, num_captions: int) -> AdditiveAttention:
    """Return the quickest implementation for these keys [B, P, A] and score [A]."""
    kind = CompiledAttention if CompiledAttention.takes(keys) else TorchAttention
    return kind(keys, score, num_captions)


class _AttentionScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, score: Tensor, queries: Tensor, batch: CaptionBatch
    ) -> Tensor:
        look = additive_attention(keys, score, batch.num_captions)
        ctx.look, ctx.batch = look, batch
        ctx.save_for_backward(queries)
        return torch.cat([look.scores(queries[step.tokens], step) for step in batch.timeline])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_scores: Tensor) -> tuple[Tensor | None, ...]:
        (queries,) = ctx.saved_tensors
        look: AdditiveAttention = ctx.look
        look.start_backward()
        grad_queries = torch.cat(
            [
                look.backward(queries[step.tokens], grad_scores[step.tokens], step)
                for step in ctx.batch.timeline
            ]
        )
        return *look.gradients(), grad_queries, None


def attention_scores(keys: Tensor, score: Tensor, queries: Tensor, batch: CaptionBatch) -> Tensor:
    """Return `score_keys` of queries that are known for all tokens of a batch.

    Shapes:
        keys [B, P, A] in the batch's image order, score [A], queries [tokens, A] -> [tokens, P].
    """
    return _AttentionScores.apply(keys, score, queries, batch)


def _exponential(half: Tensor) -> Tensor:
    """Return exp(-2 half), clamped so that a product of two may reach 0 or infinity, never NaN."""
    return half.clamp(-40.0, 40.0).mul_(-2.0).exp_()
