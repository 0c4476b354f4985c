"""Newton-Schulz orthogonalisation as one Triton kernel, a batched matrix product.

Every product of the iteration and of its gradient has the form

    alpha (L R + L2 R2) + beta C,    the second pair and C optional,

so `_product` is the only kernel. It sums in float32, rounds once and, if the result is symmetric,
computes only the tiles on and above the diagonal. Tall matrices are read as their transposes.

Legend: N matrices of n x m with n <= m; X (N, n, m) an iterate; A = X X' and P = b A + c A^2,
(N, n, n).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from atlas_bench.memory.schedule import make_schedule, normalise, normalise_backward

TILE = 64  # the largest side of a result's tile; not tuned on any GPU
DEPTH = {torch.float32: 32, torch.bfloat16: 64}  # inner size of a step: 128 bytes per row


def orthogonalise(
    x: Tensor, steps: int, coefficients: str, compute: torch.dtype
) -> tuple[Tensor, tuple]:
    """Orthogonalise (N, n, m) float32; also the context that `orthogonalise_backward` needs.

    ``compute`` is float32 (in full precision, never TF32) or bfloat16. The context is
    (normal, norm, Schedule), without the iterates.
    """
    normal, norm = normalise(x.contiguous())
    schedule = make_schedule(steps, coefficients, compute, by_kernel=True)
    y = _wide(normal.to(compute))
    for a, b, c in schedule.triples:
        _, polynomial = _polynomial(y, b, c)
        y = _product(polynomial, y, add=y, beta=a)
    y = y.to(x.dtype)
    return (y.mT if _is_tall(x) else y), (normal, norm, schedule)


def orthogonalise_backward(grad: Tensor, context: tuple) -> Tensor:
    """The gradient (N, n, m) of x from that of the result; computes the iterates again."""
    normal, norm, schedule = context
    x, saved = _wide(normal.to(schedule.compute)), []
    for a, b, c in schedule.triples:
        saved.append((x, *_polynomial(x, b, c)))
        if len(saved) < len(schedule.triples):
            x = _product(saved[-1][2], x, add=x, beta=a)
    g = _wide(grad.to(schedule.compute).contiguous())
    for a, b, c in reversed(schedule.triples):
        x, gram, polynomial = saved.pop()
        # dX = a dY + P dY + B X with B = b O + c (O A + A O), O = dY X' + X dY'
        outer = _product(g, x.mT, second=(x, g.mT), symmetric=True)
        both = _product(
            outer, gram, second=(gram, outer), alpha=c, add=outer, beta=b, symmetric=True
        )
        g = _product(polynomial, g, second=(both, x), add=g, beta=a)
    g = g.to(grad.dtype)
    return normalise_backward(g.mT if _is_tall(grad) else g, normal, norm)


def _is_tall(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _wide(x: Tensor) -> Tensor:
    return x.mT if _is_tall(x) else x


def _polynomial(x: Tensor, b: float, c: float) -> tuple[Tensor, Tensor]:
    """A and P of X."""
    gram = _product(x, x.mT, symmetric=True)
    return gram, _product(gram, gram, alpha=c, add=gram, beta=b, symmetric=True)


def _product(
    left: Tensor,
    right: Tensor,
    *,
    second: tuple[Tensor, Tensor] = (None, None),
    alpha: float = 1.0,
    add: Tensor | None = None,
    beta: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """alpha (left @ right + second[0] @ second[1]) + beta add: (N, r, k), (N, k, c) -> (N, r, c).

    All have one type, and each is contiguous or the transpose of a contiguous tensor. A second pair
    has the strides of the first one, and the result those of ``add``. ``symmetric``: the result is
    symmetric.
    """
    count, rows, inner = left.shape
    columns = right.shape[-1]
    out = left.new_empty(count, rows, columns) if add is None else torch.empty_like(add)
    depth = DEPTH[left.dtype]
    tile_rows, tile_columns, tile_inner = (
        max(16, min(most, triton.next_power_of_2(size)))
        for most, size in ((TILE, rows), (TILE, columns), (depth, inner))
    )
    grid = (count * triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns),)
    with torch.cuda.device_of(left):
        _product_kernel[grid](
            left, right, *second, add, out,
            rows, columns, inner,
            *left.stride()[1:], *right.stride()[1:], *out.stride()[1:],
            alpha, beta,
            SYMMETRIC=symmetric, ROWS=tile_rows, COLUMNS=tile_columns, INNER=tile_inner,
            # At most 1024 sums per warp, which is 32 registers per thread.
            num_warps=max(1, min(4, tile_rows * tile_columns // 1024)),
        )  # fmt: skip
    return out


# The kernels below use no function of triton.language that is itself written in Triton (tl.zeros,
# tl.cdiv): those cannot be interpreted if triton was imported before TRITON_INTERPRET was set.


@triton.jit
def _product_kernel(
    left, right, left_2, right_2, add, out,
    rows, columns, inner,
    left_row, left_column, right_row, right_column, out_row, out_column,
    alpha, beta,
    SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One tile (ROWS, COLUMNS) of one matrix; neighbours in the grid share that matrix's rows."""
    row_tiles = (rows + ROWS - 1) // ROWS
    column_tiles = (columns + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    matrix = (program // (row_tiles * column_tiles)).to(tl.int64)  # N n m may exceed 2^31
    i = program // column_tiles % row_tiles
    j = program % column_tiles
    if SYMMETRIC and i > j:  # the tile (j, i) also writes this one
        return
    row = (i * ROWS + tl.arange(0, ROWS))[:, None]
    column = (j * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    total = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    left_offset, right_offset = matrix * rows * inner, matrix * inner * columns
    total = _accumulate(
        total, left + left_offset, right + right_offset, row, column, rows, columns, inner,
        left_row, left_column, right_row, right_column, INNER,
    )  # fmt: skip
    if left_2 is not None:
        total = _accumulate(
            total, left_2 + left_offset, right_2 + right_offset, row, column, rows, columns, inner,
            left_row, left_column, right_row, right_column, INNER,
        )  # fmt: skip
    total *= alpha
    inside = (row < rows) & (column < columns)
    offset = matrix * rows * columns + row * out_row + column * out_column
    if add is not None:
        total += beta * tl.load(add + offset, mask=inside, other=0.0).to(tl.float32)
    total = total.to(out.dtype.element_ty)
    tl.store(out + offset, total, mask=inside)
    if SYMMETRIC and i < j:  # on the diagonal two values with different rounding would race
        mirrored = matrix * rows * columns + column * out_row + row * out_column
        tl.store(out + mirrored, total, mask=inside)


@triton.jit
def _accumulate(
    total, left, right, row, column, rows, columns, inner,
    left_row, left_column, right_row, right_column,
    INNER: tl.constexpr,
):  # fmt: skip
    """total (ROWS, COLUMNS) float32 + left @ right of this tile, INNER at a time."""
    step = tl.arange(0, INNER)
    for start in range(0, inner, INNER):
        across, down = start + step[None, :], start + step[:, None]
        l_tile = tl.load(
            left + row * left_row + across * left_column,
            mask=(row < rows) & (across < inner),
            other=0.0,
        )
        r_tile = tl.load(
            right + down * right_row + column * right_column,
            mask=(down < inner) & (column < columns),
            other=0.0,
        )
        total = tl.dot(l_tile, r_tile, total, input_precision="ieee")
    return total
