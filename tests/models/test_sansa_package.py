import logging
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.errors import FitWarning, MissingExtra, NumericalError
from recscale.models.ease import EASE
from recscale.models.sansa_package import SANSAPackage

package = pytest.importorskip("sansa")
pytestmark = pytest.mark.usefixtures("frozen_garbage")


def random_train(n_users=300, n_items=60, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < 0.15).astype(np.float32))


def without_history(scores, history):
    return np.where(history.toarray() > 0, 0, scores)


@pytest.mark.parametrize("factorization", ["icf", "cholmod"])
def test_it_is_the_package(factorization):
    train = random_train()
    configs = {"icf": package.ICFGramianFactorizerConfig, "cholmod": package.CHOLMODGramianFactorizerConfig}
    inverter = package.UMRUnitLowerTriangleInverterConfig(scans=2, finetune_steps=3)
    theirs = package.SANSA(package.SANSAConfig(5.0, 20 / 60, configs[factorization](), inverter))
    theirs.fit(sp.csr_matrix(train))

    ours = SANSAPackage(l2=5.0, k=20, factorization=factorization, scans=2, finetune_steps=3).fit(train)

    expected = theirs.forward(sp.csr_matrix(train[:9])).toarray()
    np.testing.assert_allclose(ours.score(train[:9]), expected, atol=1e-6)  # the order of the entries, so of the sums
    assert ours.size().n_parameters == sum(weights.nnz for weights in theirs.weights)


def test_all_of_an_exact_factor_with_many_steps_is_ease():
    train = random_train()
    ease = EASE(l2=30.0).fit(train).score(train)

    ours = SANSAPackage(l2=30.0, k=60, factorization="cholmod", scans=30).fit(train).score(train)

    np.testing.assert_allclose(without_history(ours, train), without_history(ease, train), atol=1e-4)


@pytest.mark.parametrize("factorization", ["icf", "cholmod"])
def test_items_without_interactions_have_no_weights_and_move_no_others(factorization):
    train = random_train()
    wide = sp.csr_array(sp.hstack([train[:, :7], sp.csr_array((300, 2)), train[:, 7:], sp.csr_array((300, 1))]))
    there = np.r_[:7, 9:62]

    alone = SANSAPackage(l2=5.0, k=20, factorization=factorization).fit(train)
    # k counts the entries of all 63 items, so as many in all
    among = SANSAPackage(l2=5.0, k=20, factorization=factorization).fit(wide)

    for name, weights in among.state().items():
        assert weights.shape == (63, 63)
        assert not weights[[7, 8, 62]].nnz and not weights[:, [7, 8, 62]].nnz
        assert weights.nnz <= 20 * 63 and alone.state()[name].nnz <= 20 * 60
    scores = among.score(wide)
    assert not scores[:, [7, 8, 62]].any() and scores[:, there].any(axis=0).all()


def test_a_raised_diagonal_is_told_and_logging_is_left_as_it_was():
    train = sp.csr_array(np.ones((40, 30), np.float32))
    before = logging.getLogger().handlers[:], logging.getLogger("sansa").level, logging.getLogger("sansa").propagate

    with pytest.warns(FitWarning, match="insufficient positive-definiteness"):
        SANSAPackage(l2=1e-6, k=2).fit(train)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SANSAPackage(l2=20.0, k=20).fit(random_train())

    logger = logging.getLogger("sansa")
    assert (logging.getLogger().handlers, logger.level, logger.propagate) == before


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sansa", None)
    with pytest.raises(MissingExtra, match=r"sansa is not installed; .*pip install 'recscale\[peers\]'"):
        SANSAPackage().fit(random_train())


def test_without_what_the_package_needs_that_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sansa"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sksparse", None)
    with pytest.raises(MissingExtra, match=r"sksparse is not installed; .*recscale\[peers\]"):
        SANSAPackage().fit(random_train())


def test_a_matrix_that_the_package_cannot_take_is_an_error_of_one_line():
    with pytest.raises(NumericalError, match="the package cannot take"):
        SANSAPackage(k=2, l2=1e30).fit(random_train())
