"""Training by two processes gives what one gives, up to the order of summation."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import distributed

from recscale.contract import FitContext, HeldOut
from recscale.models._parallel import Group
from recscale.models.elfm import ELFM
from recscale.models.mean_pool import MeanPool
from recscale.testing.board import planted_board

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed")

OPTIONS = {"factors": 8, "epochs": 4, "batch_size": 67, "n_negatives": 40, "patience": 3}
MODELS = {
    "elfm": lambda: ELFM(n_clusters=8, l1=1e-3, **OPTIONS),
    "mean_pool": lambda: MeanPool(l2=1e-3, pooling="attention", **OPTIONS),
}

SCRIPT = """
import sys
import numpy as np
import torch
from torch import distributed
from test_parallel import MODELS, fitted

name, folder = sys.argv[1:]
distributed.init_process_group("gloo")
history, state = fitted(name, checkpoint=f"{folder}/checkpoint.pt")
np.savez(f"{folder}/{distributed.get_rank()}.npz", loss=history["loss"], mrr=history["validation mrr"], **state)
distributed.destroy_process_group()
"""


def fitted(name, checkpoint=None):
    """Fit a model on the planted board, the last users for validation; return what it logged, and its state."""
    from pathlib import Path

    from recscale.checkpoint import Checkpoint

    train = planted_board(0).train
    history = train[-31:].copy()
    target = train[-31:].copy()
    first = np.arange(history.nnz) % 2 == 0
    history.data[first], target.data[~first] = 0, 0
    history.eliminate_zeros()
    target.eliminate_zeros()
    seen = {}
    context = FitContext(
        n_threads=1,
        validation=HeldOut(history, target),
        log=lambda name, step, value: seen.setdefault(name, []).append(value),
        checkpoint=checkpoint and Checkpoint(Path(checkpoint)),
    )
    model = MODELS[name]().fit(train[:-31], context)
    return seen, {key: value.numpy() for key, value in model.state().items()}


def run_two(script, *arguments):
    """Run a script in two processes under torchrun."""
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}  # noqa: PTH120
    environment.pop("PYTHONSAFEPATH", None)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return subprocess.run(
        [*torchrun, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_train_what_one_does(tmp_path, script, name):
    history, alone = fitted(name)

    done = run_two(script, name, str(tmp_path))

    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as found:
            np.testing.assert_allclose(found["loss"], history["loss"], rtol=1e-5)
            np.testing.assert_allclose(found["mrr"], history["validation mrr"], rtol=1e-4)
            for key, value in alone.items():
                np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_model_that_cannot_be_trained_by_several_says_so(tmp_path, script):
    script.write_text(
        "from torch import distributed\n"
        "from recscale.models.elsa import ELSA\n"
        "from recscale.testing.board import planted_board\n"
        "distributed.init_process_group('gloo')\n"
        "ELSA(factors=4, epochs=1).fit(planted_board(0).train)\n"
    )

    done = run_two(script)

    assert done.returncode != 0
    assert "this model cannot be trained by several processes" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("epochs=1, factors=2 + 2 * distributed.get_rank()", "would not train the same"),
        ("epochs=1, factors=4, batch_size=1", "a batch of 1 has no part for each of 2 processes"),
    ],
)
def test_processes_that_would_not_train_the_same_say_so(script, options, message):
    script.write_text(
        "from torch import distributed\n"
        "from recscale.models.mean_pool import MeanPool\n"
        "from recscale.testing.board import planted_board\n"
        "distributed.init_process_group('gloo')\n"
        f"MeanPool({options}).fit(planted_board(0).train)\n"
    )

    done = run_two(script)

    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(("n", "size"), [(10, 3), (2, 3), (0, 2), (7, 1)])
def test_the_parts_of_a_group_are_everything_once_and_alike_in_size(n, size):
    parts = [range(n)[Group(rank, size).part(n)] for rank in range(size)]

    assert [place for part in parts for place in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_alone_exchanges_nothing():
    tensor = torch.ones(3)

    assert Group.current() == Group(0, 1)
    assert Group().add_up(tensor) is tensor and tensor.tolist() == [1, 1, 1]
