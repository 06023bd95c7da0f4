"""EfficientRec: soft clusters of users by contrast of the halves of a history, and shortlists of the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from msgspec import Meta
from numpy.typing import NDArray

from recscale.contract import Array, Choice, Estimate, FitContext, Model, ModelSpec, Range, Shape
from recscale.errors import DataError
from recscale.models._efficientrec import Encoder, shortlists, split_halves, triplet_loss, voting
from recscale.models._inputs import checked_history
from recscale.models._training import Batch, Learner, Plan, describe, examples, session, train_module

if TYPE_CHECKING:
    import torch

WATCHED = 4096  # users whose clusters are counted after each epoch


@dataclass
class EfficientRec(Model):
    """Score an item by the contributions to the user's clusters whose shortlists hold it.

    A history is encoded without a user id (arXiv 2401.09693): h = clip(mean_j relu(relu(e_j A) B), -1, 1), two dense
    rectified layers, a layer norm, and a sigmoid for each of N clusters: the memberships z. They are trained by
    triplets: the two random halves of a history are to lie nearer than the semi-hard half of another user of the batch.
    A user belongs to the clusters of the `top_clusters` largest memberships. A cluster c keeps a shortlist of items by
    w_ci, what its users contribute to them; a user votes with the own clusters, and an item scores the mean of
    z_uc w_ci over those that list it (`votes`), 0 if none does.
    Interactions count as 1, where the paper multiplies by a rating between -1 and 1; features of items are not used;
    the public code picks triplets by the genre that a user likes best instead. The model is as large for any number
    of users: I D + N `shortlist` numbers and the layers.

    clusters: N, at least 1; 43 in the paper.
    factors: D, length of an embedding, at least 1; 173 in the paper.
    hidden: outputs of the dense layers, at least 1; 132 in the paper.
    top_clusters: clusters of a user, at least 1.
    shortlist: items of a cluster's list, at least 1; 50 to 500 in the paper.
    contribution: w_ci is the `mean` of z_uc over the users of both the item and c, or their `sum`.
    votes: contributions are averaged over the lists that hold an item (`mean`), or added up (`sum`).
    popular_items: shortlists hold none but so many items of the most users, at least 1; None is all. The public code
        takes 1,000.
    margin: of the triplets, above 0.
    shortest: items that a user to train on has, at least 2; 100 in the paper.
    longest: items of a user in a step, at least 2, drawn anew each time; 200 in the paper.
    learning_rate: of Adam, above 0.
    epochs: passes over the users, at least 1; 3 to 6 in the paper.
    batch_size: users of a step, at least 2.
    patience: epochs without a better NDCG@100 of the validation users before it ends; None never ends early. With
        validation users the best epoch is kept.
    Fitted on a device, scored on the CPU. Raises DataError if no user has `shortest` items, for input that is no matrix
    of finite numbers or a history over another number of items, NumericalError where the loss is not finite,
    DeadlineExceeded between two steps.
    """

    clusters: Annotated[int, Meta(ge=1)] = 128
    factors: Annotated[int, Meta(ge=1)] = 173
    hidden: Annotated[int, Meta(ge=1)] = 132
    top_clusters: Annotated[int, Meta(ge=1)] = 5
    shortlist: Annotated[int, Meta(ge=1)] = 500
    contribution: Literal["mean", "sum"] = "sum"
    votes: Literal["mean", "sum"] = "sum"
    popular_items: Annotated[int, Meta(ge=1)] | None = None
    # NDCG@100 of validation users, debian-depends and ml-1m: `sum` and `sum` .385 .338 (Popularity .243 .227); the
    # paper's `mean` and `mean` .007 .005, which lists what a few users have, and from the 1,000 most popular items .02
    # .03; lists of 50 .374 .298; 1 cluster of a user .408 .323, 20 .318 .304. Half of a median history is 4 items
    margin: Annotated[float, Meta(gt=0)] = 3.0
    shortest: Annotated[int, Meta(ge=2)] = 4
    longest: Annotated[int, Meta(ge=2)] = 200
    learning_rate: Annotated[float, Meta(gt=0)] = 0.003
    epochs: Annotated[int, Meta(ge=1)] = 30
    batch_size: Annotated[int, Meta(ge=2)] = 512
    patience: Annotated[int, Meta(ge=1)] | None = 5

    def fit(self, train: sp.csr_array, context: FitContext = FitContext()) -> Self:
        """Train the encoder on the rows of `train` (U, I) that are long enough; the shortlists are of all users."""
        import torch

        rows = examples(train)
        rows.data = np.ones_like(rows.data)
        long_enough = rows[np.flatnonzero(np.diff(rows.indptr) >= self.shortest)]
        if not long_enough.shape[0]:
            raise DataError(f"no user has the {self.shortest} items that shortest asks for; lower it to 2 or more")
        with session(context):
            drawn = Encoder.initial(rows.shape[1], self.factors, self.hidden, self.clusters)
        module = torch.nn.ParameterDict(drawn).to(context.device)
        encoder = Encoder(module)
        kept: dict[str, Any] = {}

        def loss(batch: Batch) -> torch.Tensor:
            one, two = split_halves(long_enough[batch.rows], self.longest, batch.rng)
            return triplet_loss(encoder.halves(one), encoder.halves(two), self.margin)

        def gauges() -> dict[str, float]:
            if context.validation is not None:
                kept.update(self._kept(encoder, rows))
            occupied = np.unique(encoder.encode(long_enough[:WATCHED], self._all(encoder)).argmax(1))
            return {"clusters that are someone's first": float(occupied.size)}

        def score(history: sp.csr_array) -> torch.Tensor:
            return torch.as_tensor(self._scores(kept, history))

        optimiser = torch.optim.Adam(module.values(), lr=self.learning_rate, fused=True)
        plan = Plan(long_enough.shape[0], self.epochs, self.batch_size, describe(self, rows), self.patience)
        train_module(Learner(module, optimiser, loss, score, gauges=gauges), plan, context)
        return self._set(self._kept(encoder, rows))

    def _all(self, encoder: Encoder) -> torch.Tensor:
        """Return the interactions (I, D) of all items."""
        import torch

        table = encoder.tables["embeddings"]
        with torch.no_grad():
            return encoder.interactions(torch.arange(len(table), device=table.device))

    def _kept(self, encoder: Encoder, rows: sp.csr_array) -> dict[str, Any]:
        """Return what scoring needs, on the CPU."""
        interactions = self._all(encoder)
        votes = voting(encoder.encode(rows, interactions), self.top_clusters)
        lists = shortlists(rows, votes, self.shortlist, self.contribution, self.popular_items)
        layers = {
            name: table.detach().cpu().clone()
            for name, table in encoder.tables.items()
            if name not in ("embeddings", "first", "second")
        }
        return {**layers, "interactions": interactions.cpu(), "shortlists": lists}

    def score(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return the votes (B, I) of the clusters of each row of `history`."""
        return self._scores(self.kept_, checked_history(history, self.kept_["shortlists"].shape[1]))

    def memberships(self, history: sp.csr_array) -> NDArray[np.float32]:
        """Return z (B, N) of each row of `history`."""
        return self._memberships(self.kept_, checked_history(history, self.kept_["shortlists"].shape[1]))

    def _memberships(self, kept: Mapping[str, Any], rows: sp.csr_array) -> NDArray[np.float32]:
        ones = sp.csr_array((np.ones_like(rows.data), rows.indices, rows.indptr), shape=rows.shape)
        return Encoder(kept).encode(ones, kept["interactions"])

    def _scores(self, kept: Mapping[str, Any], rows: sp.csr_array) -> NDArray[np.float32]:
        votes = voting(self._memberships(kept, rows), self.top_clusters)
        lists: sp.csr_array = kept["shortlists"]
        scores: NDArray[np.float32] = (votes @ lists).toarray()
        if self.votes == "mean":
            listed = sp.csr_array((np.ones_like(lists.data), lists.indices, lists.indptr), shape=lists.shape)
            ones = sp.csr_array((np.ones_like(votes.data), votes.indices, votes.indptr), shape=votes.shape)
            scores /= np.maximum((ones @ listed).toarray(), 1)
        return scores

    def state(self) -> Mapping[str, Array]:
        """Return `interactions` (I, D), the layers behind them, and `shortlists` (N, I), sparse."""
        return dict(self.kept_)

    def load_state(self, state: Mapping[str, Array]) -> Self:
        """Take back what `state` gave."""
        import torch

        arrays = {name: array if sp.issparse(array) else torch.as_tensor(array) for name, array in state.items()}
        return self._set(arrays)

    def _set(self, kept: dict[str, Any]) -> Self:
        self.kept_ = kept
        return self


def estimate(model: EfficientRec, shape: Shape) -> Estimate:
    """Return the tables with gradients, moments and the best epoch, the memberships, and what a step keeps."""
    from recscale.models._needs import validation_bytes

    items = shape.n_items * model.factors
    layers = model.hidden * (model.factors + model.hidden + model.clusters + 4) + model.clusters
    memberships = (shape.n_users + 2 * shape.n_items) * model.clusters
    batch = min(model.batch_size, shape.n_users)
    step = 4 * batch * batch + 20 * batch * (model.factors + model.hidden + model.clusters)
    listed = min(model.shortlist, shape.n_items) * model.clusters
    return Estimate(
        peak_bytes=4 * (7 * (items + layers + 2 * model.factors**2) + memberships + step)
        + 24 * shape.n_interactions
        + validation_bytes(shape)
        + 2**24,
        model_bytes=4 * (items + layers) + 8 * listed + 4 * (model.clusters + 1),
        fit_seconds=model.epochs * shape.n_interactions * model.factors**2 * 4e-10,
    )


SPEC = ModelSpec(
    model=EfficientRec,
    title="EfficientRec",
    cite="Vu et al. EfficientRec: An Unlimited User Scale Recommendation System Based on Clustering and User's "
    "Interaction Embedding Profile. ACIIDS 2022.",
    size_knob="clusters",
    sizes=(16, 43, 128, 512),
    space={
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "margin": Range(0.3, 10.0, log=True),
        "shortlist": Choice((50, 200, 500, 2000)),
        "contribution": Choice(("mean", "sum")),
        "votes": Choice(("mean", "sum")),
        "popular_items": Choice((300, 1000, 3000, None)),
        "top_clusters": Choice((1, 5, 20)),
    },
    devices=("cpu", "cuda"),
    estimate=estimate,
)
