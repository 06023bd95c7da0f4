"""What is the same for every model that is trained by epochs: which of them it keeps, and batches of one."""

import numpy as np
import pytest
import scipy.sparse as sp

from recscale import registry
from recscale.contract import Choice, FitContext, HeldOut
from recscale.models._validation import validation_value

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TRAINED = {
    "cel": [{}, {"clusters": 6, "personal_epochs": 6, "attachment": 100.0, "epochs": 12}],
    "efficientrec": [{}],
    "elfm": [{"n_clusters": 8}],
    "elsa": [{}],
    "fism": [{}],
    "gmf": [{}, {"clusters": 6, "growth_epochs": 3}],
    "h_vamp": [{"n_pseudo_inputs": 20}],
    "mean_pool": [{}],
    "mf_bpr": [{}],
    "mult_dae": [{}],
    "mult_vae": [{}],
    "neumf": [{}],
    "recvae": [{}],
    "sparse_elsa": [{"k": 4, "dimensions": 8, "pruning_epochs": 2}],
    "ucml": [{}],
}
CASES = [(name, options) for name, every in TRAINED.items() for options in every]


def rows(n_users, seed, n_items=60):
    """Return rows over items of four kinds, and a tenth of noise."""
    rng = np.random.default_rng(seed)
    likes, kinds = rng.integers(4, size=(n_users, 1)), np.arange(n_items) % 4
    return (rng.random((n_users, n_items)) < np.where(likes == kinds, 0.5, 0.05)).astype(np.float32)


def held_out(n_users=40):
    """Return users whose items are dealt out evenly."""
    every, dealt = rows(n_users, 1), np.random.default_rng(2).random((n_users, 60)) < 0.5
    return HeldOut(sp.csr_array(every * dealt), sp.csr_array(every * ~dealt))


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name} {options}" for name, options in CASES])
def test_the_epoch_that_was_best_for_the_validation_users_is_kept(name, options):
    seen, judges = [], held_out()
    spec = registry.model_spec(name)
    made = {"factors": 8, "epochs": 8, "patience": None, "learning_rate": 0.03, **options}
    made = {option: value for option, value in made.items() if option in spec.model().parameters()}

    def log(figure, epoch, value):
        if figure.startswith("validation"):
            seen.append((figure.removeprefix("validation "), value))

    model = spec.model(**made)
    model.fit(sp.csr_array(rows(120, 0)), FitContext(n_threads=1, validation=judges, log=log))

    measure = seen[0][0]
    assert validation_value(model.score, judges, measure) == pytest.approx(max(value for _, value in seen), rel=1e-4)


@pytest.mark.parametrize("name", sorted(TRAINED.keys() - {"cel"}))  # CEL has no batches
def test_a_last_batch_of_one_is_no_loss(name):
    train = sp.csr_array(np.hstack([np.ones((9, 6), np.float32), np.eye(9, 6, dtype=np.float32)]))
    options = {"k": 2, "dimensions": 4} if name == "sparse_elsa" else {"factors": 4}
    n_examples = train.nnz if name in ("gmf", "mf_bpr", "neumf", "ucml") else train.shape[0]

    model = registry.model_spec(name).model(epochs=2, batch_size=n_examples - 1, **options)

    assert np.isfinite(np.asarray(model.fit(train, FitContext(n_threads=1)).score(train))).all()


@pytest.mark.parametrize("name", [n for n, e in registry.entries("model").items() if e.origin == "built in"])
def test_the_defaults_lie_in_the_search_space(name):
    spec = registry.model_spec(name)
    defaults = spec.model().parameters()

    for option, values in spec.space.items():
        default = defaults[option]
        inside = default in values.values if isinstance(values, Choice) else values.low <= default <= values.high
        assert inside, f"{option}={default}: its value would be lost to the sampler"
