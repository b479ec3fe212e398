"""GPU kernels of the h-detach LSTM that stay on the device for the whole sequence.

A program owns a few rows of the batch with their full hidden state and walks through all steps.
Rows need nothing from one another, so programs never wait for each other and one launch is
enough; inside a program, a barrier makes what its threads wrote visible to all of them. The idea
of one launch with rows for programs is that of the LSTM kernels in pytorch/rl.

Pointers are those of contiguous tensors: gates [T, B, 4H], states [T, B, H]. Several models of one
size can share a launch: their rows lie side by side in the batch, and a second axis of the grid
counts them. A small model fills a small part of a large GPU.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x: tl.tensor) -> tl.tensor:
    """Return tanh; near zero by its series, where the sigmoid would lose all digits of x."""
    square = x * x
    series = 0.021869489 + square * -0.008863236
    series = -0.053968254 + square * series
    series = 0.133333333 + square * series
    series = x + x * square * (-0.333333333 + square * series)
    return tl.where(square < 0.09, series, 2.0 * tl.sigmoid(2.0 * x) - 1.0)


@triton.jit
def damp(
    grad: tl.tensor, keep: tl.tensor, rows: tl.tensor, running: tl.tensor, width: tl.constexpr
) -> tl.tensor:
    """Return grad times its step's mask, of width 0 (none), 1 (a number) or 2 (one for each row).

    Zero detaches infinity as well.
    """
    if width > 0:
        factor = (
            tl.load(keep + rows, mask=running, other=0.0)[:, None] if width == 2 else tl.load(keep)
        )
        grad = tl.where(factor == 0.0, 0.0, grad * factor)
    return grad


@triton.jit
def forward_kernel(
    gates: tl.tensor,
    h0: tl.tensor,
    c0: tl.tensor,
    weight: tl.tensor,
    outputs: tl.tensor,
    cells: tl.tensor,
    lengths: tl.tensor,
    steps: tl.tensor,
    batch_size: tl.tensor,
    model_rows: tl.tensor,
    cell_stride: tl.tensor,
    size: tl.constexpr,
    packed: tl.constexpr,
    rows_at_once: tl.constexpr,
    units_at_once: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Run all steps of `rows_at_once` rows. weight is w_hh transposed, [H, 4H] of each model."""
    numbers = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once)
    present = numbers < model_rows
    model = tl.program_id(1).to(tl.int64)
    rows = model * model_rows + numbers
    weight += model * 4 * size * size
    last = tl.load(lengths + rows, mask=present, other=0) if packed else rows * 0 + steps
    for step in range(steps):
        t = tl.cast(step, tl.int64)
        running = present & (t < last)
        now = t * batch_size
        hidden_before = tl.where(t == 0, h0, outputs + (now - batch_size) * size)
        cell_before = tl.where(t == 0, c0, cells + (t - 1) * cell_stride)
        for first in range(0, size, units_at_once):
            units = first + tl.arange(0, units_at_once)
            inside = running[:, None] & (units < size)[None, :]
            gate = gates + (now + rows)[:, None] * (4 * size) + units[None, :]
            into = tl.load(gate, mask=inside, other=0.0)
            forget = tl.load(gate + size, mask=inside, other=0.0)
            candidate = tl.load(gate + 2 * size, mask=inside, other=0.0)
            out = tl.load(gate + 3 * size, mask=inside, other=0.0)
            for start in range(0, size, depth):
                inner = start + tl.arange(0, depth)
                h = tl.load(
                    hidden_before + rows[:, None] * size + inner[None, :],
                    mask=running[:, None] & (inner < size)[None, :],
                    other=0.0,
                )
                column = weight + inner[:, None] * (4 * size) + units[None, :]
                known = (inner < size)[:, None] & (units < size)[None, :]
                w_into = tl.load(column, mask=known, other=0.0)
                w_forget = tl.load(column + size, mask=known, other=0.0)
                w_candidate = tl.load(column + 2 * size, mask=known, other=0.0)
                w_out = tl.load(column + 3 * size, mask=known, other=0.0)
                into = tl.dot(h, w_into, into, input_precision=precision)
                forget = tl.dot(h, w_forget, forget, input_precision=precision)
                candidate = tl.dot(h, w_candidate, candidate, input_precision=precision)
                out = tl.dot(h, w_out, out, input_precision=precision)
            into = tl.sigmoid(into)
            forget = tl.sigmoid(forget)
            candidate = tanh(candidate)
            out = tl.sigmoid(out)
            place = rows[:, None] * size + units[None, :]
            cell = tl.load(cell_before + place, mask=inside, other=0.0)
            new_cell = forget * cell + into * candidate
            tl.store(gate, into, mask=inside)
            tl.store(gate + size, forget, mask=inside)
            tl.store(gate + 2 * size, candidate, mask=inside)
            tl.store(gate + 3 * size, out, mask=inside)
            tl.store(cells + t * cell_stride + place, new_cell, mask=inside)
            tl.store(outputs + now * size + place, out * tanh(new_cell), mask=inside)
        tl.debug_barrier()


@triton.jit
def backward_kernel(
    gates: tl.tensor,
    c0: tl.tensor,
    cells: tl.tensor,
    grad_outputs: tl.tensor,
    grad_hidden: tl.tensor,
    grad_cell: tl.tensor,
    grad_gates: tl.tensor,
    weight: tl.tensor,
    keep: tl.tensor,
    cell_keep: tl.tensor,
    lengths: tl.tensor,
    steps: tl.tensor,
    batch_size: tl.tensor,
    model_rows: tl.tensor,
    size: tl.constexpr,
    packed: tl.constexpr,
    has_grad_outputs: tl.constexpr,
    keep_width: tl.constexpr,
    cell_keep_width: tl.constexpr,
    rows_at_once: tl.constexpr,
    units_at_once: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Run all steps backwards. weight is w_hh; widths of masks: 0 none, 1 is [T], 2 is [T, B].

    grad_hidden and grad_cell [B, H] enter as those of the last states and leave as those of the
    first.
    """
    numbers = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once)
    present = numbers < model_rows
    model = tl.program_id(1).to(tl.int64)
    rows = model * model_rows + numbers
    weight += model * 4 * size * size
    last = tl.load(lengths + rows, mask=present, other=0) if packed else rows * 0 + steps
    keep_stride = batch_size if keep_width == 2 else 1
    cell_keep_stride = batch_size if cell_keep_width == 2 else 1
    for back in range(1, steps + 1):
        t = tl.cast(steps - back, tl.int64)
        running = present & (t < last)
        now = t * batch_size
        cell_before = tl.where(t == 0, c0, cells + (now - batch_size) * size)
        for first in range(0, size, units_at_once):
            units = first + tl.arange(0, units_at_once)
            inside = running[:, None] & (units < size)[None, :]
            place = rows[:, None] * size + units[None, :]
            gate = (now + rows)[:, None] * (4 * size) + units[None, :]
            into = tl.load(gates + gate, mask=inside, other=0.0)
            forget = tl.load(gates + gate + size, mask=inside, other=0.0)
            candidate = tl.load(gates + gate + 2 * size, mask=inside, other=0.0)
            out = tl.load(gates + gate + 3 * size, mask=inside, other=0.0)
            squashed = tanh(tl.load(cells + now * size + place, mask=inside, other=0.0))
            dh = tl.load(grad_hidden + place, mask=inside, other=0.0)
            if has_grad_outputs:
                dh += tl.load(grad_outputs + now * size + place, mask=inside, other=0.0)
            dc = tl.load(grad_cell + place, mask=inside, other=0.0)
            dc += dh * out * (1.0 - squashed * squashed)
            earlier = tl.load(cell_before + place, mask=inside, other=0.0)
            tl.store(grad_gates + gate, dc * candidate * into * (1.0 - into), mask=inside)
            tl.store(grad_gates + gate + size, dc * earlier * forget * (1.0 - forget), mask=inside)
            tl.store(
                grad_gates + gate + 2 * size, dc * into * (1.0 - candidate * candidate), mask=inside
            )
            tl.store(grad_gates + gate + 3 * size, dh * squashed * out * (1.0 - out), mask=inside)
            step_keep = cell_keep + t * cell_keep_stride
            dc = damp(dc * forget, step_keep, rows, running, cell_keep_width)
            tl.store(grad_cell + place, dc, mask=inside)
        tl.debug_barrier()
        width = 4 * size
        if keep_width == 1:  # a detached step costs no product
            width = tl.where(tl.load(keep + t) == 0.0, 0, width)
        for first in range(0, size, units_at_once):
            units = first + tl.arange(0, units_at_once)
            inside = running[:, None] & (units < size)[None, :]
            total = tl.zeros([rows.shape[0], units_at_once], dtype=tl.float32)
            for start in range(0, width, depth):
                inner = start + tl.arange(0, depth)
                known = inner < 4 * size
                grad = tl.load(
                    grad_gates + (now + rows)[:, None] * (4 * size) + inner[None, :],
                    mask=running[:, None] & known[None, :],
                    other=0.0,
                )
                w = tl.load(
                    weight + inner[:, None] * size + units[None, :],
                    mask=known[:, None] & (units < size)[None, :],
                    other=0.0,
                )
                total = tl.dot(grad, w, total, input_precision=precision)
            total = damp(total, keep + t * keep_stride, rows, running, keep_width)
            tl.store(grad_hidden + rows[:, None] * size + units[None, :], total, mask=inside)
        tl.debug_barrier()
