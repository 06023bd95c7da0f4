"""ELFM: users and items meet in overlapping co-clusters, learned end to end, and users are never parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Estimate, FitContext, ModelSpec, Range, Scores, Shape, canonical
from recscale.errors import UsageError
from recscale.models._inputs import checked_history
from recscale.models._sampled_loss import Target, TrainedToFind, draw_task, trainable
from recscale.models._training import Batch, session

if TYPE_CHECKING:
    import torch

    from recscale.models._affinities import Parameters, UserState

NAMES = ("items", "heads", "clusters", "mixing")


@dataclass
class ELFM(TrainedToFind):
    """Score an item by the co-clusters that it shares with a user: s_ui = sum_c min(a_uc, a_ic).

    a_ic = max(e_i . e_c, 0), a_uc = max(g_uc . e_c, 0), g_uc = W sum_i softmax_i(h_c . e_i / sqrt d) e_i over the items
    i of the history (Yang, Schnabel, Bennett and Dumais 2021, RecSys, equations 2, 5 and 6). (2 N + I) d + d^2
    parameters, whatever the number of users. Trained to find an item that was hidden from a history among random ones
    (equations 7 and 8): one shared draw of `n_negatives` items for each batch, of which a user's own do not count.
    Initialised by e_i, e_c, h_c ~ N(0, 1/d) and W = 1 plus a tenth of such noise, so that half the affinities are
    positive. Computed in the reduced form of `_affinities`: no tensor of users by co-clusters by factors is made.

    n_clusters: N, co-clusters, at least 1.
    factors: d, at least 1.
    l1: lambda, weight of the affinities of users and candidates, which keeps them sparse, at least 0.
    loss: `softmax` over the scores, as the text says, or the `ratio` of scores as equation 7 prints it.
    The options of the training are those of `TrainedToFind`.
    Raises NumericalError where the loss is not finite, UsageError where no user has two items, DataError for input that
    is no matrix of finite numbers or a history over another number of items, DeadlineExceeded between two steps.
    """

    n_clusters: Annotated[int, Meta(ge=1)] = 128
    factors: Annotated[int, Meta(ge=1)] = 64
    l1: Annotated[float, Meta(ge=0)] = 1e-6
    loss: Literal["softmax", "ratio"] = "softmax"

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train on the rows of `train` (U, I) that have two items at least."""
        from recscale.models._affinities import Parameters

        trainer = _Trainer(self, trainable(canonical(train)), context)
        self._train(trainer, context)
        return self._set(Parameters(*(value.detach() for value in trainer.parameters)))

    def _set(self, parameters: Parameters) -> Self:
        from recscale.models._affinities import item_affinities
        from recscale.models._min_sum import Catalogue

        self.parameters_ = parameters
        self.item_affinity_: torch.Tensor = item_affinities(parameters.items, parameters.clusters)
        self.catalogue_ = Catalogue(self.item_affinity_)
        self.tables_: Any = None  # for incremental inference, made when it is asked for
        return self

    def score(self, history: sp.csr_array) -> Scores:
        """Return the scores (B, I) of each row of `history`; a tensor if the model was trained on a device."""
        import torch

        with torch.no_grad():
            scores = self.catalogue_.scores(self._user_affinity(history))
        return scores if scores.device.type != "cpu" else scores.numpy()

    def _user_affinity(self, history: sp.csr_array) -> torch.Tensor:
        import torch

        from recscale.models._affinities import user_affinities

        rows = checked_history(history, self.item_affinity_.shape[0])
        with torch.no_grad():
            return user_affinities(rows, self.parameters_)

    def item_affinity(self) -> NDArray[np.float32]:
        """Return a_ic (I, N)."""
        affinity: NDArray[np.float32] = self.item_affinity_.cpu().numpy()
        return affinity

    def user_affinity(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return a_uc (B, N) for each row of `history`."""
        affinity: NDArray[np.float32] = self._user_affinity(history).cpu().numpy()
        return affinity

    def user_state(self, history: sp.csr_array) -> UserState:
        """Return the state of the one user in `history` (1, I): 2 N numbers, to be updated item by item."""
        rows = checked_history(history, self.item_affinity_.shape[0])
        state: UserState = self._tables().state(rows.indices)
        return state

    def add(self, state: UserState, items: NDArray[np.int64]) -> UserState:
        """Add items to a state, in place (equation 3); O(N) each. Those that are in it already change nothing."""
        updated: UserState = self._tables().add(state, self._checked(items))
        return updated

    def remove(self, state: UserState, items: NDArray[np.int64]) -> UserState:
        """Take items out of a state, in place (equation 4); O(N) each. Raises UsageError for one that is not in it."""
        updated: UserState = self._tables().remove(state, self._checked(items))
        return updated

    def _checked(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return item numbers that exist. Raises UsageError for one that does not."""
        numbers = np.asarray(items, np.int64).reshape(-1)
        wrong = numbers[(numbers < 0) | (numbers >= self.item_affinity_.shape[0])]
        if wrong.size:
            raise UsageError(f"there is no item {wrong[0]}: the model has {self.item_affinity_.shape[0]}")
        return numbers

    def score_state(self, state: UserState) -> Scores:
        """Return the scores (1, I) of a state."""
        scores = self.catalogue_.scores(self._tables().affinity(state)[None])
        return scores if scores.device.type != "cpu" else scores.numpy()

    def _tables(self) -> Any:
        if self.tables_ is None:
            from recscale.models._affinities import ItemTables

            self.tables_ = ItemTables(self.parameters_)
        return self.tables_

    def state(self) -> Mapping[str, Array]:
        """Return `items` (I, d), `heads` (N, d), `clusters` (N, d) and `mixing` (d, d)."""
        return dict(zip(NAMES, self.parameters_, strict=True))

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave; scores on the CPU from then on."""
        import torch

        from recscale.models._affinities import Parameters

        return self._set(Parameters(*(torch.as_tensor(state[name]) for name in NAMES)))


class _Trainer:
    """The parameters under training, and what the loop asks of them."""

    def __init__(self, model: ELFM, rows: sp.csr_array, context: FitContext) -> None:
        import torch

        from recscale.models._affinities import Buffers

        self.model, self.rows = model, rows
        self.target = Target(model.loss, model.alpha, model.alpha_as)
        n_items, n_clusters, factors = rows.shape[1], model.n_clusters, model.factors
        scale = factors**-0.5
        with session(context):
            drawn = [scale * torch.randn(n, factors) for n in (n_items, n_clusters, n_clusters, factors)]
        drawn[3] = torch.eye(factors) + 0.1 * drawn[3]
        self.module = torch.nn.ParameterList(table.to(context.device) for table in drawn)
        self.buffers = Buffers()
        self.positive_users = 0.0  # share of positive affinities of the last batch

    @property
    def parameters(self) -> Parameters:
        """What is trained."""
        from recscale.models._affinities import Parameters

        return Parameters(*self.module)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the part of a batch in its loss: to find the hidden items, and lambda times the affinities (7)."""
        import torch

        from recscale.models._affinities import item_affinities, user_affinities
        from recscale.models._min_sum import min_sum
        from recscale.models._paired_min import paired_min_sum

        task = draw_task(self.rows[batch.rows], self.model.n_negatives, batch.rng).part(batch.part)
        parameters = self.parameters
        users = user_affinities(task.known, parameters, buffers=self.buffers)  # (B, N)
        wanted = torch.as_tensor(np.concatenate([task.hidden, task.pool]), device=users.device)
        asked = item_affinities(parameters.items.index_select(0, wanted), parameters.clusters)
        hidden, pool = asked.split([len(task.hidden), len(task.pool)])  # (B, N) and (S, N)
        loss = self.target(paired_min_sum(users, hidden), min_sum(users, pool), task)
        self.positive_users = float(torch.count_nonzero(users.detach())) / users.numel()
        if self.model.l1:
            loss = loss + self.model.l1 * task.share * ((users.sum() + hidden.sum()) / len(users) + pool.sum())
        return loss

    def score(self, history: sp.csr_array) -> Any:
        """Return the scores (B, I) of histories, for the validation."""
        import torch

        from recscale.models._affinities import item_affinities, user_affinities
        from recscale.models._min_sum import Catalogue

        with torch.no_grad():
            parameters = self.parameters
            items = item_affinities(parameters.items, parameters.clusters)
            return Catalogue(items).scores(user_affinities(history, parameters))

    def gauges(self) -> dict[str, float]:
        """Return how many co-clusters hold no item, and the shares of affinities that are positive."""
        import torch

        from recscale.models._affinities import item_affinities

        with torch.no_grad():
            positive = item_affinities(self.parameters.items, self.parameters.clusters) > 0
        return {
            "dead co-clusters": float((~positive.any(0)).sum()),
            "positive item affinities": float(positive.float().mean()),
            "positive user affinities": self.positive_users,
        }


def estimate(model: ELFM, shape: Shape) -> Estimate:
    """Parameters with gradients, moments and the best epoch, the items' affinities, a step and a validation.

    The factors are those that 45 fits of five data sets took, with 16 to 1,902 co-clusters, on one core: time within
    20 %, memory within 16 % of nearly all beyond 30 MB.
    """
    from recscale.models._needs import judges, looked_at_bytes
    from recscale.models._sampled_loss import JUDGES

    (n_users, n_items), entries, n_clusters = (shape.n_users, shape.n_items), shape.n_interactions, model.n_clusters
    parameters = (2 * n_clusters + n_items) * model.factors + model.factors**2
    batch, pool = min(model.batch_size, n_users), min(model.n_negatives, n_items)
    distinct = min(n_items, batch * entries // max(1, n_users))  # items of a step
    steps, width = -(-n_users // max(1, batch)), n_clusters * model.factors
    of_a_step = 8.6e-11 * distinct * width + 4.3e-9 * n_items * model.factors + 1e-2
    of_an_epoch = n_clusters * (1.5e-9 * entries + 8e-11 * n_users * pool + 1.7e-10 * judges(shape, JUDGES) * n_items)
    return Estimate(
        peak_bytes=26 * parameters
        + n_clusters * (4 * n_items + 24 * distinct)
        + 36 * batch * pool
        + 2 * looked_at_bytes(shape, JUDGES),
        model_bytes=4 * parameters,
        fit_seconds=model.epochs * (steps * of_a_step + of_an_epoch + 1.6e-9 * n_items * width),
    )


SPEC = ModelSpec(
    model=ELFM,
    title="ELFM",
    cite="Yang et al. Local Factor Models for Large-Scale Inductive Recommendation. RecSys 2021.",
    size_knob="factors",
    sizes=(16, 32, 64),
    space={
        "n_clusters": Range(64, 2048, log=True),
        "l1": Range(1e-7, 1e-4, log=True),
        "alpha": Range(0.0, 0.3),
        "learning_rate": Range(1e-3, 3e-2, log=True),
    },
    devices=("cpu", "cuda"),
    is_parallel=True,
    estimate=estimate,
)
