"""A model on its board: the fits that the checks share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.abilities import PredictsRatings
from recscale.contract import FitContext, Model, ModelSpec
from recscale.testing._printed import captured
from recscale.testing.board import Board, planted_board, rating_board


@dataclass(frozen=True)
class Second:
    """A fit and its scores on a board of its own, while numpy's global generator was moved, and what was printed."""

    board: Board
    model: Model
    returned_self: bool
    parameters_before: dict[str, Any]
    scores: NDArray[np.float32]
    printed: str


@dataclass(frozen=True)
class Trial:
    """One model on its board; two fits are shared by all checks that only read them."""

    spec: ModelSpec
    seed: int

    @property
    def predicts_ratings(self) -> bool:
        """Whether the model is tried on ratings."""
        return isinstance(self.spec.model(), PredictsRatings)

    def drawn(self) -> Board:
        """Return the board, drawn once more."""
        return rating_board(self.seed) if self.predicts_ratings else planted_board(self.seed)

    @cached_property
    def board(self) -> Board:
        """The board of the first fit."""
        return self.drawn()

    @property
    def context(self) -> FitContext:
        """How the model is fitted."""
        device = self.spec.devices[0] if self.spec.devices and "cpu" not in self.spec.devices else "cpu"
        # one thread: on so small a board two of torch's wait for each other, 37 times as long on a busy machine
        return FitContext(device=device, seed=self.seed + 1, n_threads=1)

    def fit(self, **options: Any) -> Model:
        """Return a fit of the model with these options."""
        return self.spec.model(**options).fit(self.board.train, self.context)

    @cached_property
    def fitted(self) -> Model:
        """The first fit."""
        return self.fit()

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """The scores of the first fit."""
        return as_numpy(self.fitted.score(self.board.history)).copy()

    @cached_property
    def second(self) -> Second:
        """Another fit, looked at more closely."""
        board, model = self.drawn(), self.spec.model()
        before, state = model.parameters(), np.random.get_state()  # noqa: NPY002 - what a model must not read
        try:
            np.random.seed(self.seed + 12345)  # noqa: NPY002
            with captured() as read:
                returned = model.fit(board.train, self.context)
                scores = as_numpy(model.score(board.history)).copy()
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return Second(board, model, returned is model, before, scores, read())


def as_numpy(scores: Any) -> NDArray[np.float32]:
    """Return scores as a numpy array, from whatever device they lie on."""
    array: NDArray[np.float32] = scores if isinstance(scores, np.ndarray) else scores.detach().cpu().numpy()
    return array
