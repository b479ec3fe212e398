"""GPU kernels of the h-detach LSTM that stay on the device for the whole sequence.

A program owns a few rows of the batch with their full hidden state and walks through all steps.
Rows need nothing from one another, so programs never wait for each other and one launch is
enough; inside a program, a barrier makes what its threads wrote visible to all of them. The idea
of one launch with rows for programs is that of the LSTM kernels in pytorch/rl.

Pointers are those of contiguous tensors: gates [T, B, 4H], states [T, B, H].
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
def damp(grad: tl.tensor, factor: tl.tensor) -> tl.tensor:
    """Return grad * factor; zero detaches infinity as well."""
    return tl.where(factor == 0.0, 0.0, grad * factor)


@triton.jit
def forward_step(
    gates: tl.tensor,
    hidden_before: tl.tensor,
    cell_before: tl.tensor,
    weight: tl.tensor,
    hidden: tl.tensor,
    cell: tl.tensor,
    rows: tl.tensor,
    running: tl.tensor,
    size: tl.constexpr,
    units_at_once: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Add h_{t-1} @ weight to the gates of one step, squash them, and write the new states."""
    for first in range(0, size, units_at_once):
        units = first + tl.arange(0, units_at_once)
        inside = running[:, None] & (units < size)[None, :]
        gate = gates + rows[:, None] * (4 * size) + units[None, :]
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
        new_cell = forget * tl.load(cell_before + place, mask=inside, other=0.0) + into * candidate
        tl.store(gate, into, mask=inside)
        tl.store(gate + size, forget, mask=inside)
        tl.store(gate + 2 * size, candidate, mask=inside)
        tl.store(gate + 3 * size, out, mask=inside)
        tl.store(cell + place, new_cell, mask=inside)
        tl.store(hidden + place, out * tanh(new_cell), mask=inside)
    tl.debug_barrier()


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
    cell_stride: tl.tensor,
    size: tl.constexpr,
    packed: tl.constexpr,
    rows_at_once: tl.constexpr,
    units_at_once: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Run all steps of `rows_at_once` rows. weight is w_hh transposed, [H, 4H]."""
    numbers = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once)
    present = numbers < batch_size
    rows = numbers.to(tl.int64)
    last = tl.load(lengths + rows, mask=present, other=0) if packed else rows * 0 + steps
    forward_step(
        gates, h0, c0, weight, outputs, cells, rows, present, size, units_at_once, depth, precision
    )  # fmt: skip
    for t in range(1, steps):
        now = tl.cast(t, tl.int64) * batch_size
        before = now - batch_size
        forward_step(
            gates + now * (4 * size),
            outputs + before * size,
            cells + (tl.cast(t, tl.int64) - 1) * cell_stride,
            weight,
            outputs + now * size,
            cells + tl.cast(t, tl.int64) * cell_stride,
            rows,
            present & (t < last),
            size,
            units_at_once,
            depth,
            precision,
        )


@triton.jit
def backward_step(
    gates: tl.tensor,
    cell_before: tl.tensor,
    cell: tl.tensor,
    grad_outputs: tl.tensor,
    grad_hidden: tl.tensor,
    grad_cell: tl.tensor,
    grad_gates: tl.tensor,
    weight: tl.tensor,
    keep: tl.tensor,
    cell_keep: tl.tensor,
    rows: tl.tensor,
    running: tl.tensor,
    size: tl.constexpr,
    has_grad_outputs: tl.constexpr,
    keep_width: tl.constexpr,
    cell_keep_width: tl.constexpr,
    units_at_once: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write the gate gradients of one step; turn the states' gradients into the earlier ones'."""
    for first in range(0, size, units_at_once):
        units = first + tl.arange(0, units_at_once)
        inside = running[:, None] & (units < size)[None, :]
        place = rows[:, None] * size + units[None, :]
        gate = rows[:, None] * (4 * size) + units[None, :]
        into = tl.load(gates + gate, mask=inside, other=0.0)
        forget = tl.load(gates + gate + size, mask=inside, other=0.0)
        candidate = tl.load(gates + gate + 2 * size, mask=inside, other=0.0)
        out = tl.load(gates + gate + 3 * size, mask=inside, other=0.0)
        squashed = tanh(tl.load(cell + place, mask=inside, other=0.0))
        dh = tl.load(grad_hidden + place, mask=inside, other=0.0)
        if has_grad_outputs:
            dh += tl.load(grad_outputs + place, mask=inside, other=0.0)
        dc = tl.load(grad_cell + place, mask=inside, other=0.0)
        dc += dh * out * (1.0 - squashed * squashed)
        earlier = tl.load(cell_before + place, mask=inside, other=0.0)
        tl.store(grad_gates + gate, dc * candidate * into * (1.0 - into), mask=inside)
        tl.store(grad_gates + gate + size, dc * earlier * forget * (1.0 - forget), mask=inside)
        tl.store(
            grad_gates + gate + 2 * size, dc * into * (1.0 - candidate * candidate), mask=inside
        )
        tl.store(grad_gates + gate + 3 * size, dh * squashed * out * (1.0 - out), mask=inside)
        dc *= forget
        if cell_keep_width == 1:
            dc = damp(dc, tl.load(cell_keep))
        elif cell_keep_width == 2:
            dc = damp(dc, tl.load(cell_keep + rows, mask=running, other=0.0)[:, None])
        tl.store(grad_cell + place, dc, mask=inside)
    tl.debug_barrier()
    width = 4 * size
    if keep_width == 1:  # a detached step costs no product
        width = tl.where(tl.load(keep) == 0.0, 0, width)
    for first in range(0, size, units_at_once):
        units = first + tl.arange(0, units_at_once)
        inside = running[:, None] & (units < size)[None, :]
        total = tl.zeros([rows.shape[0], units_at_once], dtype=tl.float32)
        for start in range(0, width, depth):
            inner = start + tl.arange(0, depth)
            known = inner < 4 * size
            grad = tl.load(
                grad_gates + rows[:, None] * (4 * size) + inner[None, :],
                mask=running[:, None] & known[None, :],
                other=0.0,
            )
            w = tl.load(
                weight + inner[:, None] * size + units[None, :],
                mask=known[:, None] & (units < size)[None, :],
                other=0.0,
            )
            total = tl.dot(grad, w, total, input_precision=precision)
        if keep_width == 1:
            total = damp(total, tl.load(keep))
        elif keep_width == 2:
            total = damp(total, tl.load(keep + rows, mask=running, other=0.0)[:, None])
        tl.store(grad_hidden + rows[:, None] * size + units[None, :], total, mask=inside)
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
    present = numbers < batch_size
    rows = numbers.to(tl.int64)
    last = tl.load(lengths + rows, mask=present, other=0) if packed else rows * 0 + steps
    keep_stride = batch_size if keep_width == 2 else 1
    cell_keep_stride = batch_size if cell_keep_width == 2 else 1
    for back in range(1, steps):
        t = tl.cast(steps - back, tl.int64)
        now = t * batch_size
        backward_step(
            gates + now * (4 * size),
            cells + (now - batch_size) * size,
            cells + now * size,
            grad_outputs + now * size,
            grad_hidden,
            grad_cell,
            grad_gates + now * (4 * size),
            weight,
            keep + t * keep_stride,
            cell_keep + t * cell_keep_stride,
            rows,
            present & (t < last),
            size,
            has_grad_outputs,
            keep_width,
            cell_keep_width,
            units_at_once,
            depth,
            precision,
        )
    backward_step(
        gates,
        c0,
        cells,
        grad_outputs,
        grad_hidden,
        grad_cell,
        grad_gates,
        weight,
        keep,
        cell_keep,
        rows,
        present,
        size,
        has_grad_outputs,
        keep_width,
        cell_keep_width,
        units_at_once,
        depth,
        precision,
    )
