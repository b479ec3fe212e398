"""`HDetachLSTM`, an `nn.LSTM` that detaches hidden states while it trains.

Parameters, their initialisation, arguments, results and errors are those of `nn.LSTM`, and so is
every value of the forward pass whatever p is; only gradients differ (Kanuparthi, Arpit et al.,
ICLR 2019). In evaluation nothing is detached.
"""

import inspect
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


class HDetachLSTM(nn.LSTM):
    """An LSTM that stops the gradient through the hidden state with probability `p` per step.

    p: probability that h_{t-1} is detached as it enters step t; one draw serves the whole batch.
    cell_p: the same for the cell state (the paper's c-detach), drawn apart.
    damping: instead of drawing, multiply every gradient by 1 - p, the mean of the draws.
    layer_masks: stacked layers share one mask, or draw "independent" ones. Both directions of a
        bidirectional layer use the layer's mask, each in its own time order.
    per_sample: every row of the batch draws for itself.
    generator: where draws come from; None is torch's own generator of the input's device.
    backend: "auto", or one of `captioner.lstm.backends.NAMES`; with a projection, `cpu` and
        `triton` run as `torch`.
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
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        p: float = 0.0,
        cell_p: float = 0.0,
        damping: bool = False,
        layer_masks: str = "shared",
        per_sample: bool = False,
        generator: torch.Generator | None = None,
        backend: str = "auto",
        precision: str = "full",
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
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
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
        input: Any,  # noqa: A002
        hx: State | None = None,
        *,
        keep: Masks | None = None,
        cell_keep: Masks | None = None,
    ) -> tuple[Any, State]:
        """Return the outputs of the last layer, and (h_n, c_n) of all layers, as `nn.LSTM` does.

        `keep` and `cell_keep` take the place of the draws in training: a mask for all layers, or
        a sequence with one for each. Its columns are the rows of the batch as the caller counts
        them, its steps those of the layer, counted backwards in the reverse direction.

        Shapes:
            input [T, B, I], or [B, T, I] with batch_first, or [T, I], or a PackedSequence;
            hx two of [layers * directions, B, H], the first with the projection's size if there is
            one; masks [T] or [T, B] with values in [0, 1].
        Raises:
            RuntimeError, ValueError: what `nn.LSTM` raises, for the same reasons.
            OptionError: a mask does not fit.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, keep, cell_keep)
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        is_batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        x = input if is_batched else input.unsqueeze(batch_dim)
        if hx is not None:
            wanted = 3 if is_batched else 2
            if hx[0].dim() != wanted or hx[1].dim() != wanted:
                raise RuntimeError(
                    f"For {'batched 3-D' if is_batched else 'unbatched 2-D'} input, hx and cx "
                    f"should also be {wanted}-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
                )
            if not is_batched:
                hx = hx[0].unsqueeze(1), hx[1].unsqueeze(1)
        hx = self._checked_state(x, hx, None)
        if self.batch_first:
            x = x.transpose(0, 1)
        outputs, (h_n, c_n) = self._run(x, hx, None, keep, cell_keep)
        if self.batch_first:
            outputs = outputs.transpose(0, 1)
        if not is_batched:
            return outputs.squeeze(batch_dim), (h_n.squeeze(1), c_n.squeeze(1))
        return outputs, (h_n, c_n)

    def _forward_packed(
        self,
        packed: PackedSequence,
        hx: State | None,
        keep: Masks | None,
        cell_keep: Masks | None,
    ) -> tuple[PackedSequence, State]:
        """Run on the rows in order of their length, and give everything back as it was ordered."""
        data, batch_sizes, order, original_order = packed
        if order is not None:
            hx = None if hx is None else self.permute_hidden(hx, order)
            keep, cell_keep = (_reorder(masks, order) for masks in (keep, cell_keep))
        hx = self._checked_state(data, hx, batch_sizes)
        x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        outputs, last = self._run(x, hx, lengths, keep, cell_keep)
        data = pack_padded_sequence(outputs, lengths).data
        packed = PackedSequence(data, batch_sizes, order, original_order)
        return packed, self.permute_hidden(last, original_order)

    def _checked_state(self, x: Tensor, hx: State | None, batch_sizes: Tensor | None) -> State:
        """Return the state before the first step, zeros if there is none."""
        if hx is None:
            size = self.get_expected_hidden_size(x, batch_sizes)
            cell_size = self.get_expected_cell_size(x, batch_sizes)
            hx = x.new_zeros(size), x.new_zeros(cell_size)
        self.check_forward_args(x, hx, batch_sizes)
        return hx

    def _run(
        self,
        x: Tensor,
        hx: State,
        lengths: Tensor | None,
        keep: Masks | None,
        cell_keep: Masks | None,
    ) -> tuple[Tensor, State]:
        """Run all layers: x [T, B, I], rows in order of `lengths` -> outputs [T, B, ...]."""
        steps, batch_size, _ = x.shape
        if steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        directions = 2 if self.bidirectional else 1
        masks = self._masks(keep, cell_keep, steps, batch_size, x)
        last: list[State] = []
        for layer, (layer_keep, layer_cell_keep) in enumerate(masks):
            results = []
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                number = layer * directions + direction
                outputs, h_n, c_n = hdetach_lstm(
                    reverse(x, lengths) if direction else x,
                    hx[0][number],
                    hx[1][number],
                    getattr(self, f"weight_ih{suffix}"),
                    getattr(self, f"weight_hh{suffix}"),
                    getattr(self, f"bias_ih{suffix}", None),
                    getattr(self, f"bias_hh{suffix}", None),
                    layer_keep,
                    layer_cell_keep,
                    self.backend,
                    lengths=lengths,
                    precision=self.precision,
                    w_hr=getattr(self, f"weight_hr{suffix}", None),
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
        x: Tensor,
    ) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return the two masks of each layer; None keeps all."""
        if not self.training:
            return [(None, None)] * self.num_layers
        columns = []
        for name, given, p in (("keep", keep, self.p), ("cell_keep", cell_keep, self.cell_p)):
            if given is None:
                columns.append(self._draw(p, steps, batch_size, x))
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

    def _draw(self, p: float, steps: int, batch_size: int, x: Tensor) -> list[Tensor | None]:
        """Return a mask for each layer, drawn once or once per layer."""
        check_probability(p)
        if p == 0.0:
            return [None] * self.num_layers
        if self.damping:
            dtype = torch.promote_types(x.dtype, torch.float32)
            factor = torch.full((steps,), 1.0 - p, device=x.device, dtype=dtype)
            return [factor] * self.num_layers
        rows = batch_size if self.per_sample else None
        draws: list[Tensor | None] = [
            sample_keep(steps, p, batch_size=rows, generator=self.generator, device=x.device)
            for _ in range(self.num_layers if self.layer_masks == "independent" else 1)
        ]
        return draws if len(draws) == self.num_layers else draws * self.num_layers

    def flatten_parameters(self) -> None:
        """Do nothing: no backend needs the parameters in one piece. For callers of `nn.LSTM`."""

    def to_lstm(self) -> nn.LSTM:
        """Return an `nn.LSTM` with a copy of the weights, for what knows only that class.

        `torch.jit`, `torch.onnx.export` and dynamic quantisation are of this kind. In evaluation,
        and at p = 0, it computes what this layer does.
        """
        lstm = nn.LSTM(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.batch_first,
            self.dropout,
            self.bidirectional,
            self.proj_size,
            device="meta",
        )
        weights = {name: weight.detach().clone() for name, weight in self.state_dict().items()}
        lstm.load_state_dict(weights, assign=True)
        for name, parameter in self.named_parameters():
            lstm.get_parameter(name).requires_grad_(parameter.requires_grad)
        return lstm.train(self.training)

    def extra_repr(self) -> str:
        words = [super().extra_repr()]
        for name, own in inspect.signature(HDetachLSTM).parameters.items():
            is_shown = own.kind is own.KEYWORD_ONLY and name not in ("generator", "backend")
            if is_shown and (value := getattr(self, name)) != own.default:
                words.append(f"{name}={value}")
        words.append(f"backend={self.backend}")
        weight = next(self.parameters(), None)
        if weight is not None:  # there is none where a wrapper, such as FSDP, has taken them
            dtype = torch.promote_types(weight.dtype, torch.float32)
            has_projection = self.proj_size > 0
            found = resolve(self.backend, weight.device, dtype, has_projection=has_projection)
            words[-1] += f" ({found})" if found != self.backend else ""
        return ", ".join(words)


def reverse(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Return every row with its own steps in reverse order; what lies behind them stays.

    Shapes:
        states [T, B, ...], lengths [B] -> [T, B, ...].
    """
    if lengths is None:
        return states.flip(0)
    steps = torch.arange(states.shape[0], device=lengths.device).unsqueeze(1)
    mirrored = torch.where(steps < lengths, lengths - 1 - steps, steps).to(states.device)
    return states[mirrored, torch.arange(states.shape[1], device=states.device)]


def _reorder(masks: Masks | None, order: Tensor) -> Masks | None:
    """Put the columns of [T, B] masks in the order of the sorted rows."""
    if masks is None:
        return None
    if not isinstance(masks, Tensor):
        return [mask for one in masks if isinstance(mask := _reorder(one, order), Tensor)]
    if masks.dim() != 2 or masks.shape[1] != len(order):
        return masks
    return masks.index_select(1, order.to(masks.device))
