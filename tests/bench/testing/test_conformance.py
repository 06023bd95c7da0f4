import os
import time
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
import scipy.sparse as sp
from msgspec import Meta

from recscale.contract import Choice, Estimate, FitContext, Model, ModelSpec, Range, canonical
from recscale.errors import DeadlineExceeded, MissingExtra, ModelError, UnknownName
from recscale.testing.conformance import assert_conforms, check


@dataclass
class Sound(Model):
    """Score by co-occurrence with the history, the counts of `n_kept` items kept."""

    n_kept: Annotated[int, Meta(ge=1)] = 80
    damping: Annotated[float, Meta(ge=0)] = 1.0

    def fit(self, train, context=FitContext()):
        train = canonical(train)
        together = (train.T @ train).toarray() / (self.damping + np.asarray(train.sum(axis=0)))
        self.weights_ = together[: self.n_kept].astype(np.float32)
        context.progress(1, 1)
        return self

    def score(self, history):
        return canonical(history)[:, : len(self.weights_)] @ self.weights_

    def state(self):
        return {"weights": self.weights_}

    def load_state(self, state):
        self.weights_ = state["weights"]
        return self


SOUND = ModelSpec(
    model=Sound,
    title="Sound",
    cite="Nobody. Nowhere.",
    size_knob="n_kept",
    sizes=(20, 40, 80),
    space={"damping": Range(0.0, 10.0)},
)


class ReturnsNothing(Sound):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)


class ScoresInDouble(Sound):
    def score(self, history):
        return super().score(history).astype(np.float64)


class ScoresTransposed(Sound):
    def score(self, history):
        return np.ascontiguousarray(super().score(history).T)


class NotFiniteForNobody(Sound):
    def score(self, history):
        with np.errstate(invalid="ignore", divide="ignore"):
            lengths = np.asarray(history.sum(axis=1))[:, None]
            return (super().score(history) / lengths).astype(np.float32)


class ReadsTheGlobalGenerator(Sound):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)
        self.weights_ = self.weights_ + np.float32(1e-3) * np.random.random(self.weights_.shape).astype(np.float32)  # noqa: NPY002
        return self


class CentresTheBatch(Sound):
    def score(self, history):
        scores = super().score(history)
        return scores - scores.mean(axis=0)


class ScalesItsTraining(Sound):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)
        train.data *= 2
        return self


class ScalesItsHistory(Sound):
    def score(self, history):
        scores = super().score(history)
        history.data *= 2
        return scores


class KeepsAView(Sound):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)
        self.values_ = canonical(train).data
        return self

    def score(self, history):
        return super().score(history) * self.values_[0]


class ChangesItself(Sound):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)
        self.damping = 2.0
        return self


class ForgetsHalf(Sound):
    def load_state(self, state):
        self.weights_ = state["weights"] / 2
        return self


class CannotLoad(Sound):
    def load_state(self, state):
        raise KeyError("weights")


class CountsTooLittle(Sound):
    def save(self, path):
        np.savez(path, weights=self.weights_, more=np.zeros(4096))
        return path.stat().st_size


class IgnoresItsKnob(Sound):
    def fit(self, train, context=FitContext()):
        self.weights_ = Sound().fit(train, context).weights_
        return self


class Prints(Sound):
    def fit(self, train, context=FitContext()):
        print("epoch 1")
        return super().fit(train, context)


class PrintsPastPython(Sound):
    def fit(self, train, context=FitContext()):
        os.write(2, b"epoch 1")
        return super().fit(train, context)


class WantsOneType(Sound):
    def fit(self, train, context=FitContext()):
        if train.dtype != np.float32:
            raise TypeError("float32 only")
        return super().fit(train, context)


class TrustsTheOrder(Sound):
    def score(self, history):
        rows = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
        first = np.full(history.shape[0], 80)
        first[rows[::-1]] = history.indices[::-1]
        return super().score(history) + np.float32(0.1) * first[:, None].astype(np.float32)


class DiesOfItsDeadline(Sound):
    def fit(self, train, context=FitContext()):
        if context.deadline is not None and time.monotonic() > context.deadline:
            raise ZeroDivisionError("no time")
        return super().fit(train, context)


class Guesses(Sound):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)
        self.weights_ = context.rng().random(self.weights_.shape).astype(np.float32)
        return self


BROKEN = [
    (ReturnsNothing, "fit returns self"),
    (ScoresInDouble, "scores are (B, I) float32"),
    (ScoresTransposed, "scores are (B, I) float32"),
    (NotFiniteForNobody, "scores are finite"),
    (ReadsTheGlobalGenerator, "it repeats with its seed"),
    (CentresTheBatch, "it does not depend on the batch"),
    (ScalesItsTraining, "it leaves its input alone"),
    (ScalesItsHistory, "it leaves its input alone"),
    (KeepsAView, "it leaves its input alone"),
    (ChangesItself, "it keeps its hyper-parameters"),
    (ForgetsHalf, "it survives the disk"),
    (CannotLoad, "it survives the disk"),
    (CountsTooLittle, "it takes the bytes that it counts"),
    (IgnoresItsKnob, "it grows with its knob"),
    (Prints, "it prints nothing"),
    (PrintsPastPython, "it prints nothing"),
    (WantsOneType, "it takes other matrices"),
    (TrustsTheOrder, "it takes other matrices"),
    (DiesOfItsDeadline, "it heeds its deadline"),
    (Guesses, "it finds what was planted"),
]


def named(results):
    return {result.name: result for result in results}


def test_a_sound_model_passes_every_check():
    results = check(SOUND)

    assert [result for result in results if not result.passed] == []
    assert len(results) == 17


@pytest.mark.parametrize(("model", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_model_fails_the_check_that_is_meant_for_it(model, name):
    result = named(check(replace(SOUND, model=model)))[name]

    assert not result.passed
    assert result.detail


@pytest.mark.parametrize(
    "change",
    [
        {"title": " "},
        {"cite": ""},
        {"space": {"dampin": Range(0.0, 1.0)}},
        {"space": {"damping": Choice((-1.0,))}},
        {"space": {"n_kept": Range(1, 5)}},
        {"sizes": (0, 10)},
        {"size_knob": "size"},
        {"size_knob": None},
        {"devices": ()},
        {"devices": ("cpu", "tpu")},
        {"estimate": lambda model, shape: Estimate(0, 0)},
    ],
)
def test_a_spec_that_makes_no_sense_is_found_out(change):
    result = named(check(replace(SOUND, **change)))["its SPEC is sane"]

    assert not result.passed


def test_a_model_without_a_knob_need_not_grow():
    results = named(check(replace(SOUND, model=IgnoresItsKnob, size_knob=None, sizes=())))

    assert results["it grows with its knob"].passed


@pytest.mark.parametrize(
    ("sizes", "tried"),
    [((20, 200, None), "[2, 16, None]"), ((None, 90, 100), "[None, 14, 16]"), ((2, 5, 9), "[2, 5, 9]")],
)
def test_whole_numbers_are_scaled_to_the_board_and_all_else_stays_in_its_place(sizes, tried):
    @dataclass
    class KeepsSome(Sound):
        n_kept: Annotated[int, Meta(ge=1)] | None = None

    result = named(check(replace(SOUND, model=KeepsSome, sizes=sizes)))["it grows with its knob"]

    assert f"n_kept = {tried}" in result.detail
    assert result.passed == (sizes[0] is not None)


def test_a_model_that_stops_at_its_deadline_says_so():
    @dataclass
    class Stops(Sound):
        def fit(self, train, context=FitContext()):
            if context.deadline is not None:
                raise DeadlineExceeded("out of time")
            return super().fit(train, context)

    result = named(check(replace(SOUND, model=Stops)))["it heeds its deadline"]

    assert result.passed
    assert "raises DeadlineExceeded" in result.detail


def test_one_line_a_failure_is_raised_for_a_test():
    with pytest.raises(ModelError, match=r"^scores are \(B, I\) float32: scores are float64, not float32$"):
        assert_conforms(replace(SOUND, model=ScoresInDouble))


def test_a_sound_model_raises_nothing():
    assert_conforms(SOUND)


def test_a_model_is_found_by_its_registered_name():
    assert all(result.passed for result in check("popularity"))


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'popularity'"):
        check("popularty")


def test_a_model_that_cannot_run_here_is_skipped_not_failed():
    @dataclass
    class Missing(Sound):
        def fit(self, train, context=FitContext()):
            raise MissingExtra("scikit-sparse", "cholmod")

    with pytest.raises(MissingExtra, match=r"recscale\[cholmod\]"):
        check(replace(SOUND, model=Missing))


def test_sparse_states_are_counted_too():
    @dataclass
    class Sparse(Sound):
        def fit(self, train, context=FitContext()):
            super().fit(train, context)
            self.weights_ = sp.csr_array(self.weights_)
            return self

        def score(self, history):
            return (canonical(history)[:, : self.weights_.shape[0]] @ self.weights_).toarray()

    assert all(result.passed for result in check(replace(SOUND, model=Sparse)))


class Means(Model):
    """Predict the mean of an item and half of what the user gives more than that."""

    scores_are_ratings: ClassVar[Literal[True]] = True

    def fit(self, train, context=FitContext()):
        ratings = canonical(train, keep_zeros=True)
        sums, counts = (np.bincount(ratings.indices, w, ratings.shape[1]) for w in (ratings.data, None))
        self.means_ = ((sums + ratings.data.mean()) / (counts + 1)).astype(np.float32)
        return self

    def score(self, history):
        ratings = canonical(history, keep_zeros=True)
        known = sp.csr_array(
            (ratings.data - self.means_[ratings.indices], ratings.indices, ratings.indptr), ratings.shape
        )
        counts = np.maximum(np.diff(ratings.indptr), 1)
        return (self.means_ + np.asarray(known.sum(axis=1)).reshape(-1, 1) / counts[:, None] / 2).astype(np.float32)

    def state(self):
        return {"means": self.means_}

    def load_state(self, state):
        self.means_ = state["means"]
        return self


class TrainsWithoutZeros(Means):
    def fit(self, train, context=FitContext()):
        return super().fit(canonical(train), context)


class AsksWithoutZeros(Means):
    def score(self, history):
        return super().score(canonical(history))


class PredictsTheMean(Means):
    def fit(self, train, context=FitContext()):
        super().fit(train, context)
        self.means_[:] = train.data.mean()
        return self

    def score(self, history):
        return np.tile(self.means_, (history.shape[0], 1))


def test_a_model_that_predicts_ratings_is_tried_on_ratings():
    assert_conforms(replace(SOUND, model=dataclass(Means), size_knob=None, sizes=(), space={}))


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (TrainsWithoutZeros, "it takes a zero for a rating", "ratings of 0 in the training change nothing"),
        (AsksWithoutZeros, "it takes a zero for a rating", "ratings of 0 in the history change nothing"),
        (PredictsTheMean, "it finds what was planted", "of the squared error of the mean rating is left"),
    ],
)
def test_a_model_that_misreads_ratings_fails_the_check_that_is_meant_for_it(model, name, reason):
    results = {r.name: r for r in check(replace(SOUND, model=dataclass(model), size_knob=None, sizes=(), space={}))}

    assert not results[name].passed and reason in results[name].detail
