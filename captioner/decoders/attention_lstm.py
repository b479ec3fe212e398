"""LSTM that attends to a grid of features before every step, as one differentiable function.

Forward and backward pass go through the packed steps of a batch. Whatever does not depend on the
order of steps is computed once for all of them: the gradients of weights, keys and values. The
captions of an image read the same keys and values, and the weighted means of all captions are one
batched product. The mean is taken of the features, or of their contribution to the gates where that
is cheaper.

Source: attention and gate of Xu et al. 2015, sections 3.1.2 and 4.2; h-detach of Kanuparthi, Arpit
et al. 2019. The copy of h_{t-1} that enters the LSTM is detached; the copy that is the attention's
query is not, unless `detach_attention` is set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from captioner.decoders.additive_attention import additive_attention
from captioner.decoders.batch import CaptionBatch
from captioner.hdetach.gates import activate_gates, gate_gradients
from captioner.hdetach.packed_lstm import scatter_active, select_active
from captioner.hdetach.products import Multiplier, weight_gradient


class AttentionWeights(NamedTuple):
    """The parameters of the recurrence."""

    recurrent: Tensor  # [4H, H] from h_{t-1} to the gates
    query: Tensor  # [A, H] from h_{t-1} to the attention's query
    query_bias: Tensor  # [A]
    score: Tensor  # [A] from the attention's hidden layer to a score
    gate: Tensor  # [1, H] from h_{t-1} to the gate beta
    gate_bias: Tensor  # [1]
    context: Tensor | None  # [4H, D] from the context to the gates; None: values are gates already


@dataclass(frozen=True)
class Locations:
    """Which steps look at one position, drawn by the attention, and the numbers that draw it."""

    is_drawn: Tensor  # bool [tokens]; the other steps look at the weighted mean
    uniform: Tensor  # [tokens], in [0, 1)

    def choose(self, attention: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        """Return the positions of a step's rows [rows], and what each looks at [rows, P]."""
        cumulative = attention.cumsum(1)
        reached = cumulative <= self.uniform[here, None] * cumulative[:, -1:]
        chosen = reached.sum(1).clamp(max=attention.shape[1] - 1)
        alone = nn.functional.one_hot(chosen, attention.shape[1]).to(attention.dtype)
        return chosen, torch.where(self.is_drawn[here, None], alone, attention)


@dataclass(frozen=True)
class Unrolling:
    """How the recurrence walks over a batch."""

    batch: CaptionBatch
    keep: Sequence[float]
    detach_attention: bool
    dtype: torch.dtype | None
    locations: Locations | None = None  # None: all steps look at the weighted mean


class _AttentionLSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input_gates: Tensor,
        hidden: Tensor,
        cell: Tensor,
        keys: Tensor,
        values: Tensor,
        unrolling: Unrolling,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        w = AttentionWeights(*weights)  # type: ignore[arg-type]
        batch, dtype = unrolling.batch, unrolling.dtype
        recurrent, ask = Multiplier(w.recurrent, dtype), _ask(w, dtype)
        from_context = None if w.context is None else Multiplier(w.context, dtype)
        ask_bias = torch.cat([w.query_bias, w.gate_bias])
        tokens, size, positions = input_gates.shape[0], hidden.shape[1], keys.shape[1]
        new = input_gates.new_empty
        gates, asked = torch.empty_like(input_gates), new(tokens, len(ask_bias))
        outputs, before, cells, squashed = (new(tokens, size) for _ in range(4))
        attention, contexts = new(tokens, positions), new(tokens, values.shape[2])
        locations = unrolling.locations
        looked = attention if locations is None else torch.empty_like(attention)
        chosen = batch.targets.new_full((0 if locations is None else tokens,), 0)
        look = additive_attention(keys, w.score, batch.num_captions)
        for step in batch.timeline:
            here = step.tokens
            before[here] = hidden = select_active(hidden, step.survivors)
            cells[here] = cell = select_active(cell, step.survivors)
            torch.add(ask.forward(hidden), ask_bias, out=asked[here])
            torch.softmax(look.scores(asked[here, :-1], step), dim=1, out=attention[here])
            if locations is not None:
                chosen[here], looked[here] = locations.choose(attention[here], here)
            mixed = torch.bmm(step.to_grid(looked[here]), values[: step.active_images])
            contexts[here] = step.from_grid(mixed)
            context = asked[here, -1:].sigmoid() * contexts[here]
            torch.add(input_gates[here], recurrent.forward(hidden), out=gates[here])
            gates[here] += context if from_context is None else from_context.forward(context)
            hidden, cell, squashed[here] = activate_gates(gates[here], cell)
            outputs[here] = hidden
        ctx.unrolling = unrolling
        ctx.save_for_backward(
            *(gates, before, cells, squashed, asked, attention, looked, contexts, keys, values),
            *weights,
        )
        ctx.mark_non_differentiable(chosen)
        return outputs, attention, chosen

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_outputs: Tensor, grad_attention: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        gates, before, cells, squashed, asked, attention, looked, contexts, keys, values, *rest = (
            ctx.saved_tensors
        )
        w = AttentionWeights(*rest)
        unrolling: Unrolling = ctx.unrolling
        batch, dtype = unrolling.batch, unrolling.dtype
        recurrent, ask = Multiplier(w.recurrent, dtype), _ask(w, dtype)
        from_context = None if w.context is None else Multiplier(w.context, dtype)
        grad_gates, grad_asked = torch.empty_like(gates), torch.empty_like(asked)
        grad_mixed = torch.empty_like(contexts)
        look = additive_attention(keys, w.score, batch.num_captions)
        look.start_backward()
        last = batch.timeline[-1].rows
        grad_hidden, grad_cell = (before.new_zeros(last, before.shape[1]) for _ in range(2))
        for t in reversed(range(batch.steps)):
            step = batch.timeline[t]
            here, keep = step.tokens, unrolling.keep[t]
            grad_cell = gate_gradients(
                gates[here],
                cells[here],
                squashed[here],
                grad_outputs[here] + grad_hidden,
                grad_cell,
                out=grad_gates[here],
            )
            grad_context = grad_gates[here]
            if from_context is not None:
                grad_context = from_context.backward(grad_context)
            beta = asked[here, -1:].sigmoid()
            torch.mul(grad_context, beta, out=grad_mixed[here])
            grad_beta = (grad_context * contexts[here]).sum(1, keepdim=True)
            grad_asked[here, -1:] = grad_beta * beta * (1.0 - beta)

            grad_weights = torch.bmm(
                step.to_grid(grad_mixed[here]), values[: step.active_images].transpose(1, 2)
            )
            grad_weights = step.from_grid(grad_weights)
            if unrolling.locations is not None:  # what is drawn passes no gradient on
                grad_weights = grad_weights * ~unrolling.locations.is_drawn[here, None]
            grad_weights = grad_weights + grad_attention[here]
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_weights, attention[here], 1, attention.dtype
            )
            grad_asked[here, :-1] = look.backward(asked[here, :-1], grad_scores, step)

            grad_hidden = ask.backward(grad_asked[here])
            if unrolling.detach_attention:
                grad_hidden *= keep
            if keep != 0.0:
                through_gates = recurrent.backward(grad_gates[here])
                grad_hidden.add_(through_gates, alpha=keep)
            if t > 0:
                rows = batch.timeline[t - 1].rows
                grad_hidden = scatter_active(grad_hidden, step.survivors, rows)
                grad_cell = scatter_active(grad_cell, step.survivors, rows)

        grad_values = None
        if ctx.needs_input_grad[4]:
            grad_values = torch.bmm(
                batch.by_image(looked).transpose(1, 2), batch.by_image(grad_mixed)
            )
        grad_keys, grad_score = look.gradients()
        grad_ask = weight_gradient(grad_asked, before, dtype)
        grad_ask_bias = grad_asked.sum(0)
        grad_context_weight = None
        if w.context is not None:
            gated = asked[:, -1:].sigmoid() * contexts
            grad_context_weight = weight_gradient(grad_gates, gated, dtype)
        grad_parameters = AttentionWeights(
            recurrent=weight_gradient(grad_gates, before, dtype),
            query=grad_ask[:-1],
            query_bias=grad_ask_bias[:-1],
            score=grad_score,
            gate=grad_ask[-1:],
            gate_bias=grad_ask_bias[-1:],
            context=grad_context_weight,
        )
        return grad_gates, grad_hidden, grad_cell, grad_keys, grad_values, None, *grad_parameters


def _ask(weights: AttentionWeights, dtype: torch.dtype | None) -> Multiplier:
    """Join what h_{t-1} asks of the features, the query and the gate, into one product."""
    return Multiplier(torch.cat([weights.query, weights.gate]), dtype)


def attention_lstm(
    input_gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: AttentionWeights,
    unrolling: Unrolling,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden state after each step of every row, its attention, and what it drew.

    Shapes:
        input_gates [tokens, 4H] (what words and biases add to the gates), hidden and cell
        [captions, H] before step 0, keys [B, P, A], values [B, P, D] (or [B, P, 4H] without a
        context weight)
        -> outputs [tokens, H], attention [tokens, P], each row summing to 1, and the positions
        drawn, int64 [tokens], or [0] without `locations`.
    """
    return _AttentionLSTM.apply(input_gates, hidden, cell, keys, values, unrolling, *weights)
