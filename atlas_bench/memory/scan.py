"""A sequential scan over chunks whose backward pass recomputes every step from its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[tuple, tuple]]


def scan(
    step: Step, state: Sequence[Tensor], inputs: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """``state, output = step(state, inputs_n)`` for every n along dimension 0 of ``inputs``.

    ``step`` must depend on no tensor but its arguments. Returns the last state, the state at the
    start of every step stacked along dimension 0, and the outputs stacked likewise. Training
    keeps only the states, so its memory grows with the number of steps, not with their size.
    """
    flat = _Scan.apply(step, len(state), *state, *inputs)
    count = len(state)
    return flat[:count], flat[count : 2 * count], flat[2 * count :]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step: Step, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        state, inputs = tensors[:count], tensors[count:]
        starts, outputs = [], []
        for slices in zip(*(x.unbind(0) for x in inputs), strict=True):
            starts.append(state)
            state, output = step(state, slices)
            outputs.append(output)
        ctx.step, ctx.count = step, count
        stacked = tuple(torch.stack(x) for x in zip(*starts, strict=True))
        ctx.save_for_backward(*stacked, *inputs)
        return (*state, *stacked, *(torch.stack(x) for x in zip(*outputs, strict=True)))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count, saved = ctx.count, ctx.saved_tensors
        starts, inputs = saved[:count], saved[count:]
        grad_state = list(grads[:count])
        grad_starts, grad_outputs = grads[count : 2 * count], grads[2 * count :]
        wanted = [count + i for i, x in enumerate(inputs) if ctx.needs_input_grad[2 + count + i]]
        grad_inputs = [torch.empty_like(inputs[i - count]) for i in wanted]
        for n in reversed(range(starts[0].shape[0])):
            leaves = [x[n].detach().requires_grad_() for x in starts]
            leaves += [
                x[n].detach().requires_grad_(count + i in wanted) for i, x in enumerate(inputs)
            ]
            with torch.enable_grad():
                state, output = ctx.step(tuple(leaves[:count]), tuple(leaves[count:]))
            targets = [*state, *output]
            received = grad_state + [g[n] for g in grad_outputs]
            needed = [*range(count), *wanted]
            found = torch.autograd.grad(
                targets, [leaves[i] for i in needed], received, allow_unused=True
            )
            for i in range(count):
                grad = grad_starts[i][n]
                grad_state[i] = grad if found[i] is None else grad + found[i]
            for slot, grad in zip(grad_inputs, found[count:], strict=True):
                slot[n] = 0 if grad is None else grad
        by_index = dict(zip(wanted, grad_inputs, strict=True))
        return (None, None, *grad_state, *(by_index.get(count + i) for i in range(len(inputs))))
