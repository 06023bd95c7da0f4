"""A small file of interactions, and models that go wrong in every way."""

import numpy as np
import pytest

import recscale

MODELS = {
    "good": "",
    "raises": "raise ValueError('this model is wrong')",
    "allocates": "self.held = np.ones(4_000_000_000 // 8)",
    "loops": "import time\n        while True: time.sleep(0.01)",
    "overruns": "import time\n        for i in range(10_000): time.sleep(0.01); context.progress(i, 10_000)",
    "segfaults": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exits": "import os; os._exit(3)",
    "garbage": "import os, sys; print('{garbage}\\n' * 1000); sys.stderr.write('\\xff' * 100)\n"
    "        for fd in range(3, 64):\n"
    "            try: os.write(fd, b'{garbage\\n\\xff\\xfe[1]\\n')\n"
    "            except OSError: pass",
    "nan": "self.scale = float('nan')",
}
TEMPLATE = '''
from dataclasses import dataclass
import numpy as np
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Odd(Model):
    """A model for the tests of the runner."""
    width: int = 4
    def fit(self, train, context=FitContext()):
        self.scale = 1.0
        self.counts_ = np.asarray(train.sum(axis=0), np.float32)
        {body}
        return self
    def score(self, history):
        return np.tile(self.counts_ * np.float32(self.scale), (history.shape[0], 1))
    def state(self): return {{"counts": self.counts_}}
    def load_state(self, state): self.counts_ = state["counts"]; self.scale = 1.0; return self

SPEC = ModelSpec(model=Odd, title="{name}", cite="none", size_knob="width", sizes=(4, 8){more})
'''
TRAINED = '''"""A model that is as good as its option `skill` from the first epoch on, and says so."""

from dataclasses import dataclass

import numpy as np

from recscale.contract import Choice, FitContext, Model, ModelSpec


@dataclass
class Trained(Model):
    """The more skill, the more of the popularity is seen; a trial may take long."""

    skill: int = 10
    epochs: int = 3
    pause: float = 0.0

    def fit(self, train, context=FitContext()):
        import time

        for epoch in range(self.epochs):
            context.log("validation mrr", epoch + 1, 0.01 * self.skill * (1 + epoch))
            time.sleep(self.pause)
        self.scores_ = np.minimum(np.asarray(train.sum(axis=0), np.float32), self.skill)
        return self

    def score(self, history):
        return np.tile(self.scores_, (history.shape[0], 1))

    def state(self):
        return {"scores": self.scores_}

    def load_state(self, state):
        self.scores_ = state["scores"]
        return self


SPEC = ModelSpec(
    model=Trained, title="Trained", cite="none", space={"skill": Choice(tuple(range(1, 25)))},
    size_knob="epochs", sizes=(1, 2, 3, 4),
)
'''


@pytest.fixture
def plugin(tmp_path):
    """Return a function that writes a plug-in model which does what its name says, and returns its path."""

    def write(name, *, body=None, more=""):
        path = tmp_path / f"{name}.py"
        path.write_text(TEMPLATE.format(name=name, body=MODELS[name] if body is None else body, more=more))
        return str(path)

    return write


@pytest.fixture
def gate(tmp_path):
    """Return a path, and the part of a fit that waits until there is a file, at the latest after the test."""
    path = tmp_path / "gate"
    yield path, f"import os, time\n        while not os.path.exists({str(path)!r}): time.sleep(0.05)"
    path.touch()


@pytest.fixture
def trained(tmp_path):
    """Return the path of a plug-in model that is trained by epochs and logs a validation figure at each."""
    path = tmp_path / "trained.py"
    path.write_text(TRAINED)
    return str(path)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Return a folder with a csv of 60 users and 20 items, in which its splits are prepared once."""
    folder = tmp_path_factory.mktemp("shared")
    rng = np.random.default_rng(0)
    lines = ["user,item"]
    for user in range(60):
        lines += [f"u{user},i{item}" for item in rng.choice(20, size=8, replace=False)]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def data_file(shared_folder, monkeypatch):
    """Return a csv of 60 users and 20 items, which is not to be changed: other tests read it too."""
    monkeypatch.setenv("RECSCALE_CACHE", str(shared_folder / "cache"))
    return shared_folder / "data.csv"


@pytest.fixture(scope="session")
def enough_seconds(shared_folder, tmp_path_factory):
    """Return a limit on time that a job without work keeps, however busy the machine: four times what one takes."""
    store = tmp_path_factory.mktemp("without-work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSCALE_CACHE", str(shared_folder / "cache"))
        data = {"file": {"path": str(shared_folder / "data.csv")}}
        frame = recscale.run(data, store=store, progress=False, models=["popularity"])
    return 4 * float(frame["job_wall_seconds"][0])
