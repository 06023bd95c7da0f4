"""The two losses of FISM, for tables P (I, D) of the history and Q (I, D + 1) of the items with the biases b last."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recscale.models._bags import Bags

if TYPE_CHECKING:
    import torch

PIECE = 2**22  # numbers of the factors of unknown items that are looked up at once


class Tables(NamedTuple):
    """What is trained, and the exponent that it is trained for."""

    history: torch.Tensor  # P (I, D)
    items: torch.Tensor  # Q with b (I, D + 1)
    alpha: float


def hidden(rows: Bags, tables: Tables) -> torch.Tensor:
    """Return n^-alpha times the sum of P over each history, and a one for the bias, (B, D + 1)."""
    import torch

    sums = rows.times(tables.history) * _scale(rows.lengths, tables.alpha)[:, None]
    return torch.cat([sums, sums.new_ones(sums.shape[0], 1)], 1)


def squared(rows: Bags, tables: Tables, n_negatives: int) -> torch.Tensor:
    """Return the sum of (1 - s_ui)^2 over the entries and of s_uj^2 over `n_negatives` unknown items each, expected.

    Adds its gradient to that of the tables. Known items are dealt with one by one; over the unknown ones the sum is
    h Q'Q h' less the known, h the hidden vector, so no draw is needed and no (B, I) scores.
    """
    p, q, alpha = tables.history.detach(), tables.items.detach(), tables.alpha
    n_items = p.shape[0]
    users, items = rows.rows, rows.items
    less = _scale(rows.lengths - 1, alpha)[users]  # (n entries,)
    ratio = less / _scale(rows.lengths, alpha)[users]
    weight = n_negatives * rows.lengths / (n_items - rows.lengths).clamp(min=1)  # (B,) of an unknown item's square
    vectors = hidden(rows, Tables(p, q, alpha))
    whole = rows.dots(vectors, q)  # s_ui if i were not in the history, (n entries,)
    biases, alone = q[items, -1], (p * q[:, :-1]).sum(1)[items]
    known = biases + ratio * (whole - biases) - less * alone - 1
    back = vectors @ (q.T @ q)  # (B, D + 1)
    loss = known @ known + weight @ ((back * vectors).sum(1) - rows.by_row(whole.square()))

    by_whole = 2 * ratio * known - 2 * weight[users] * whole
    by_vectors = rows.times(q, by_whole).addcmul_((2 * weight)[:, None], back)
    by_alone = -2 * rows.by_item(less * known, n_items)[:, None]
    by_items = q @ (vectors.T @ ((2 * weight)[:, None] * vectors))
    rows.add_transposed(vectors, by_whole, by_items)
    by_items[:, :-1].addcmul_(by_alone, p)
    by_items[:, -1] += rows.by_item(2 * (1 - ratio) * known, n_items)
    by_history = by_alone * q[:, :-1]
    by_sums = by_vectors[:, :-1] * _scale(rows.lengths, alpha)[:, None]
    rows.add_transposed(by_sums, rows.values.new_ones(items.numel()), by_history)
    add_gradient(tables.history, by_history)
    add_gradient(tables.items, by_items)
    return loss


def paired(rows: Bags, tables: Tables, n_negatives: int, rng: np.random.Generator) -> torch.Tensor:
    """Return the sum of (1 - s_ui + s_uj)^2 over the entries and `n_negatives` random unknown items j each.

    Adds its gradient to that of the tables. i is left out of the history on both sides.
    """
    import torch

    n_items = tables.history.shape[0]
    others = torch.as_tensor(rng.integers(0, n_items, (rows.items.numel(), n_negatives)), device=rows.items.device)
    entries = rows.rows * n_items + rows.items  # ascending
    drawn = rows.rows[:, None] * n_items + others
    usable = entries[torch.searchsorted(entries, drawn).clamp(max=entries.numel() - 1)] != drawn
    total = entries.new_zeros((), dtype=torch.float32)
    n_each = max(1, PIECE // (n_negatives * tables.items.shape[1]))
    for part in torch.arange(rows.items.numel(), device=entries.device).split(n_each):
        loss = _pairs_of(part, rows, tables, (others[part], usable[part]))
        loss.backward()
        total += loss.detach()
    return total


def _pairs_of(part: torch.Tensor, rows: Bags, tables: Tables, drawn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the loss of some of the entries."""
    import torch

    lookup = torch.nn.functional.embedding
    others, usable = drawn
    users, items = rows.rows[part], rows.items[part]
    sums = torch.nn.functional.embedding_bag(rows.items, tables.history, rows.starts, mode="sum")
    history = (sums[users] - lookup(items, tables.history)) * _scale(rows.lengths - 1, tables.alpha)[users, None]
    history = torch.cat([history, history.new_ones(len(part), 1)], 1)  # (n entries, D + 1)
    known = (history * lookup(items, tables.items)).sum(1, keepdim=True)
    unknown = (lookup(others, tables.items) @ history[:, :, None]).squeeze(2)  # (n entries, n_negatives)
    return (usable * (1 - known + unknown).square()).sum()


def add_gradient(table: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add to the gradient of a table, which may have none."""
    table.grad = gradient if table.grad is None else table.grad.add_(gradient)


def _scale(n_items: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return n^-alpha, and 1 for none."""
    return n_items.clamp(min=1).float() ** -alpha
