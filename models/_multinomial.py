"""The multinomial likelihood of rows under a linear layer, with its gradients, in a few passes over the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recscale.models._bags import PIECE, Bags

if TYPE_CHECKING:
    import torch

LOGITS = 2**26  # numbers that are made at once: 256 MB
LEAST_USERS = 64  # so few that products with the table still take their time by multiplying


def logits_at_once(n_users: int, n_items: int) -> int:
    """Return of how many users the logits are made at once."""
    return min(n_users, max(LEAST_USERS, LOGITS // n_items))


class MultinomialLayer:
    """A layer of weights W (I, H) and biases b (I,) whose outputs are the logits of a multinomial over the items.

    One busy core, B, I, H = 500, 20,000, 600, with all gradients: 623 ms, 530 to 560 of them the three matrix products;
    by log_softmax under autograd with dense rows of X 852.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        import torch

        self.weight, self.bias = weight, bias
        self.by_weight = torch.empty_like(weight, requires_grad=False)
        self.by_bias = torch.empty_like(bias, requires_grad=False)
        self._logits = weight.detach().new_empty(0, weight.shape[0])

    def __call__(self, hidden: torch.Tensor, rows: Bags) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean over users of -sum_i x_ui log softmax_i, and its gradient by `hidden` (B, H).

        Writes the gradients to the weights and biases, unless they are frozen.
        """
        import torch

        n_users, n_items = hidden.shape[0], self.weight.shape[0]
        loss, by_hidden = hidden.new_zeros(()), torch.empty_like(hidden)
        counts, ends = rows.by_row(rows.values), torch.cumsum(rows.lengths, 0).tolist()
        n_each = logits_at_once(n_users, n_items)
        if self._logits.shape[0] < n_each:
            self._logits = hidden.new_empty(n_each, n_items)
        for first in range(0, n_users, n_each):
            users = slice(first, min(first + n_each, n_users))
            entries = slice(ends[first - 1] if first else 0, ends[users.stop - 1])
            places = rows.rows[entries] - first, rows.items[entries]
            logits = self._logits[: users.stop - first]
            torch.addmm(self.bias.detach(), hidden[users], self.weight.detach().T, out=logits)
            loss -= logits[places] @ rows.values[entries]
            loss += _to_probabilities(logits, counts[users], n_users)
            logits[places] -= rows.values[entries] / n_users
            torch.mm(logits, self.weight.detach(), out=by_hidden[users])
            if self.weight.requires_grad:
                self._add(logits, hidden[users], is_first=first == 0)
        if self.weight.requires_grad:
            self.weight.grad, self.bias.grad = self.by_weight, self.by_bias
        return loss / n_users, by_hidden

    def _add(self, by_logits: torch.Tensor, hidden: torch.Tensor, *, is_first: bool) -> None:
        """Add the share of some users to the gradients; the first overwrites what the step before left."""
        import torch

        kept = 0 if is_first else 1
        torch.addmm(self.by_weight, by_logits.T, hidden, beta=kept, out=self.by_weight)  # (I, B) @ (B, H) -> (I, H)
        torch.addmv(self.by_bias, by_logits.T, by_logits.new_ones(len(hidden)), beta=kept, out=self.by_bias)


def _to_probabilities(logits: torch.Tensor, counts: torch.Tensor, n_users: int) -> torch.Tensor:
    """Turn logits (B, I) in place into softmax times counts / n_users; return the sum of counts times log sum exp."""
    n_each = len(logits) if logits.is_cuda else max(1, PIECE // logits.shape[1])
    total = logits.new_zeros(())
    for first in range(0, len(logits), n_each):
        part, own = logits[first : first + n_each], counts[first : first + n_each]
        largest = part.amax(1, keepdim=True)
        part.sub_(largest).exp_()
        sums = part.sum(1, keepdim=True)
        total += own @ (sums.log() + largest)[:, 0]
        part.mul_(own[:, None] / (n_users * sums))
    return total
