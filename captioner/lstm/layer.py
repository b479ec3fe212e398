"""`HDetachLSTM`: takes the place of `torch.nn.LSTM`, and detaches while it trains.

Parameters, their initialisation, arguments, results and errors are those of `nn.LSTM`, and so is
every value of the forward pass whatever p is; only gradients differ (Kanuparthi, Arpit et al.,
ICLR 2019). In evaluation nothing is detached.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from captioner.errors import OptionError
from captioner.hdetach.masks import check_probability, sample_keep
from captioner.lstm.backends import NAMES, resolve
from captioner.lstm.operator import PRECISIONS, hdetach_lstm

LAYER_MASKS = ("shared", "independent")

State = tuple[Tensor, Tensor]
Masks = Tensor | Sequence[Tensor]


class HDetachLSTM(nn.RNNBase):
    """An LSTM that stops the gradient through the hidden state with probability `p` per step.

    p: probability that h_{t-1} is detached as it enters step t; one draw serves the whole batch.
    cell_p: the same for the cell state (the paper's c-detach), drawn apart.
    damping: instead of drawing, multiply every gradient by 1 - p, the mean of the draws.
    layer_masks: stacked layers share one mask, or draw "independent" ones. Both directions of a
        bidirectional layer use the layer's mask, each in its own time order.
    per_sample: every row of the batch draws for itself.
    generator: where draws come from; None is torch's own generator of the input's device.
    backend: "auto", or one of `captioner.lstm.backends.NAMES`.
    precision: "bf16" rounds the operands of the large products.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        p: float = 0.0,
        cell_p: float = 0.0,
        damping: bool = False,
        layer_masks: str = "shared",
        per_sample: bool = False,
        generator: torch.Generator | None = None,
        backend: str = "auto",
        precision: str = "full",
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_probability(p)
        check_probability(cell_p, "cell_p")
        for name, value, allowed in (
            ("layer_masks", layer_masks, LAYER_MASKS),
            ("backend", backend, NAMES),
            ("precision", precision, PRECISIONS),
        ):
            if value not in allowed:
                raise OptionError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
        if proj_size != 0:
            raise OptionError(
                f"proj_size is {proj_size}; HDetachLSTM has no projections: leave it 0, and put "
                "an nn.Linear behind the layer"
            )
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.p = p
        self.cell_p = cell_p
        self.damping = damping
        self.layer_masks = layer_masks
        self.per_sample = per_sample
        self.generator = generator
        self.backend = backend
        self.precision = precision

    def forward(
        self,
        x: Any,
        state: State | None = None,
        *,
        keep: Masks | None = None,
        cell_keep: Masks | None = None,
    ) -> tuple[Any, State]:
        """Return the outputs of the last layer, and (h_n, c_n) of all layers, as `nn.LSTM` does.

        `keep` and `cell_keep` take the place of the draws in training: a mask for all layers, or
        a sequence with one for each. Its columns are the rows of the batch as the caller counts
        them, its steps those of the layer, counted backwards in the reverse direction.

        Shapes:
            x [T, B, I], or [B, T, I] with batch_first, or [T, I], or a PackedSequence;
            state two of [layers * directions, B, H]; masks [T] or [T, B] with values in [0, 1].
        Raises:
            RuntimeError, ValueError: what `nn.LSTM` raises, for the same reasons.
            OptionError: a mask does not fit.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, state, keep, cell_keep)
        if x.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
        batched = x.dim() == 3
        batch_dim = 0 if self.batch_first and batched else 1
        if not batched:
            x = x.unsqueeze(1)
        if state is not None:
            wanted = 3 if batched else 2
            if state[0].dim() != wanted or state[1].dim() != wanted:
                raise RuntimeError(
                    f"For {'batched 3-D' if batched else 'unbatched 2-D'} input, hx and cx should "
                    f"also be {wanted}-D but got ({state[0].dim()}-D, {state[1].dim()}-D) tensors"
                )
            if not batched:
                state = state[0].unsqueeze(1), state[1].unsqueeze(1)
        self.check_input(x, None)
        if batch_dim == 0:
            x = x.transpose(0, 1)
        outputs, (h_n, c_n) = self._run(x, state, None, keep, cell_keep)
        if not batched:
            return outputs.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return (outputs.transpose(0, 1) if batch_dim == 0 else outputs), (h_n, c_n)

    def _forward_packed(
        self,
        packed: PackedSequence,
        state: State | None,
        keep: Masks | None,
        cell_keep: Masks | None,
    ) -> tuple[PackedSequence, State]:
        """Run on the rows in order of their length, and give everything back as it was ordered."""
        data, batch_sizes, order, back = packed
        self.check_input(data, batch_sizes)
        x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        if order is not None:
            if state is not None:
                state = state[0].index_select(1, order), state[1].index_select(1, order)
            keep, cell_keep = (_reorder(masks, order) for masks in (keep, cell_keep))
        outputs, (h_n, c_n) = self._run(x, state, lengths, keep, cell_keep)
        if back is not None:
            h_n, c_n = h_n.index_select(1, back), c_n.index_select(1, back)
        data = pack_padded_sequence(outputs, lengths).data
        return PackedSequence(data, batch_sizes, order, back), (h_n, c_n)

    def _run(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        keep: Masks | None,
        cell_keep: Masks | None,
    ) -> tuple[Tensor, State]:
        """Run all layers: x [T, B, I], rows in order of `lengths` -> outputs [T, B, ...]."""
        steps, batch_size, _ = x.shape
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        directions = 2 if self.bidirectional else 1
        size = (self.num_layers * directions, batch_size, self.hidden_size)
        if state is None:
            state = x.new_zeros(size), x.new_zeros(size)
        self.check_hidden_size(state[0], size, "Expected hidden[0] size {}, got {}")
        self.check_hidden_size(state[1], size, "Expected hidden[1] size {}, got {}")
        masks = self._masks(keep, cell_keep, steps, batch_size, x.device)
        last: list[State] = []
        for layer, (layer_keep, layer_cell_keep) in enumerate(masks):
            results = []
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                number = layer * directions + direction
                outputs, h_n, c_n = hdetach_lstm(
                    reverse(x, lengths) if direction else x,
                    state[0][number],
                    state[1][number],
                    getattr(self, f"weight_ih{suffix}"),
                    getattr(self, f"weight_hh{suffix}"),
                    getattr(self, f"bias_ih{suffix}") if self.bias else None,
                    getattr(self, f"bias_hh{suffix}") if self.bias else None,
                    layer_keep,
                    layer_cell_keep,
                    self.backend,
                    lengths=lengths,
                    precision=self.precision,
                )
                results.append(reverse(outputs, lengths) if direction else outputs)
                last.append((h_n, c_n))
            x = torch.cat(results, dim=2) if self.bidirectional else results[0]
            if self.dropout > 0.0 and layer < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x, (torch.stack([h for h, _ in last]), torch.stack([c for _, c in last]))

    def _masks(
        self,
        keep: Masks | None,
        cell_keep: Masks | None,
        steps: int,
        batch_size: int,
        device: torch.device,
    ) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return the two masks of each layer; None keeps all."""
        if not self.training:
            return [(None, None)] * self.num_layers
        columns = []
        for name, given, p in (("keep", keep, self.p), ("cell_keep", cell_keep, self.cell_p)):
            if given is None:
                columns.append(self._draw(p, steps, batch_size, device))
            elif isinstance(given, Tensor):
                columns.append([given] * self.num_layers)
            elif len(given) == self.num_layers:
                columns.append(list(given))
            else:
                raise OptionError(
                    f"{name} holds {len(given)} masks; give one tensor for all layers, or one for "
                    f"each of the {self.num_layers}"
                )
        return list(zip(*columns, strict=True))

    def _draw(
        self, p: float, steps: int, batch_size: int, device: torch.device
    ) -> list[Tensor | None]:
        """Return a mask for each layer, drawn once or once per layer."""
        check_probability(p)
        if p == 0.0:
            return [None] * self.num_layers
        if self.damping:
            return [torch.full((steps,), 1.0 - p, device=device)] * self.num_layers
        rows = batch_size if self.per_sample else None
        draws: list[Tensor | None] = [
            sample_keep(steps, p, batch_size=rows, generator=self.generator, device=device)
            for _ in range(self.num_layers if self.layer_masks == "independent" else 1)
        ]
        return draws if len(draws) == self.num_layers else draws * self.num_layers

    def flatten_parameters(self) -> None:
        """Do nothing: no backend needs the parameters in one piece. For callers of `nn.LSTM`."""

    def extra_repr(self) -> str:
        words = [super().extra_repr()]
        defaults = {
            "p": 0.0,
            "cell_p": 0.0,
            "damping": False,
            "layer_masks": "shared",
            "per_sample": False,
            "precision": "full",
        }
        for name, default in defaults.items():
            if (value := getattr(self, name)) != default:
                words.append(f"{name}={value}")
        weight = next(self.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        found = resolve(self.backend, weight.device, dtype, self.hidden_size)
        words.append(f"backend={self.backend}" + (f" ({found})" if found != self.backend else ""))
        return ", ".join(words)


def reverse(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Return every row with its own steps in reverse order; what lies behind them stays.

    Shapes:
        states [T, B, ...], lengths [B] -> [T, B, ...].
    """
    if lengths is None:
        return states.flip(0)
    steps = torch.arange(states.shape[0]).unsqueeze(1)
    mirrored = torch.where(steps < lengths, lengths - 1 - steps, steps).to(states.device)
    return states[mirrored, torch.arange(states.shape[1], device=states.device)]


def _reorder(masks: Masks | None, order: Tensor) -> Masks | None:
    """Put the columns of [T, B] masks in the order of the sorted rows."""
    if masks is None:
        return None
    if not isinstance(masks, Tensor):
        return [_reorder_one(one, order) for one in masks]
    return _reorder_one(masks, order)


def _reorder_one(mask: Tensor, order: Tensor) -> Tensor:
    if mask.dim() != 2 or mask.shape[1] != len(order):
        return mask
    return mask.index_select(1, order.to(mask.device))
