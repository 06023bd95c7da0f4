"""The model of the soak: quick, with scores that only its width and seed decide; or one that breaks its budget."""

import os
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recscale.contract import FitContext, ModelSpec
from recscale.models.popularity import Popularity

N_ITEMS = 20  # of the soak's data; a warm-up fits a matrix of another width


@dataclass
class Soaked(Popularity):
    """Scores each item at random, the same for every user.

    width: nothing but a name for the job, from 1.
    act: work; allocate more than the soak allows (32 GB); or sleep for longer than it allows (an hour).
    """

    width: int = 1
    act: Literal["work", "allocate", "sleep"] = "work"

    def fit(self, train, context=FitContext()):
        self.counts_ = np.random.default_rng([self.width, context.seed]).random(train.shape[1], dtype=np.float32)
        if train.shape[1] == N_ITEMS:
            self._fit_in_earnest(context)
        return self

    def _fit_in_earnest(self, context):
        """Leave a line for the soak, which counts the fits, and go wrong where that was asked for."""
        with open(os.environ["SOAK_FITS"], "a") as file:
            file.write(f"{self.act} {self.width} {context.seed}\n")
        if self.act == "allocate":
            self.held = np.ones(4 * 10**9)
        elif self.act == "sleep":
            time.sleep(3600)


SPEC = ModelSpec(model=Soaked, title="Soaked", cite="none", size_knob="width", sizes=(1, 2))
