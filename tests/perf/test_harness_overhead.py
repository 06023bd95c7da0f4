"""What the harness itself costs: the command line's answers, and the time and memory added to a job."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recscale.records.store import Store
from recscale.running.display import Silent
from recscale.running.job import Request
from recscale.running.process import WorkerProcess
from recscale.running.runner import Runner
from recscale.running.suite import Suite

pytestmark = pytest.mark.perf

TRIVIAL = '''
from dataclasses import dataclass
import numpy as np
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Trivial(Model):
    """Scores every item by its number: no work of its own."""
    def fit(self, train, context=FitContext()):
        self.scores_ = np.arange(train.shape[1], dtype=np.float32)
        return self
    def score(self, history):
        return np.tile(self.scores_, (history.shape[0], 1))
    def state(self): return {"scores": self.scores_}
    def load_state(self, state): self.scores_ = state["scores"]; return self

SPEC = ModelSpec(model=Trivial, title="Trivial", cite="none")
'''
LIBRARIES = "numpy, scipy.sparse, msgspec, psutil, yaml, platformdirs"  # what is loaded when a fit starts
IMPORTS = f"import {LIBRARIES}, numba"  # and for ranking
MEMORY = (
    f"import {LIBRARIES};"
    "print([int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith('VmRSS')][0])"
)


def seconds_of(command):
    """Return the median seconds of five runs after one to warm up."""
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"]], ids=" ".join)
def test_the_command_line_answers_within_half_a_second(arguments):
    taken = seconds_of([sys.executable, "-m", "recscale", *arguments])

    print(f"\nrecscale {' '.join(arguments)}: {taken:.2f} s (goal: 0.5 s)")
    assert taken < 0.5


def test_a_job_costs_less_than_a_second_and_50_mb_beyond_imports(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    plugin = tmp_path / "trivial.py"
    plugin.write_text(TRIVIAL)
    suite = Suite(models=["trivial"], plugins=[str(plugin)])
    job = Runner(suite, Store(tmp_path / "s", "here"), Silent()).plan().jobs[0]
    imports = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    import_seconds, import_bytes = seconds_of([sys.executable, "-c", IMPORTS]), int(imports.stdout)

    added = []
    for _ in range(6):
        started = time.perf_counter()
        worker = WorkerProcess(Request(task="run", job=job, plugins=job.plugins), tmp_path, n_threads=job.n_threads)
        while not worker.is_done():
            time.sleep(0.002)
            worker.events()
        wall_seconds = time.perf_counter() - started
        outcome = worker.outcome()
        worker.close()
        added.append(wall_seconds - import_seconds - sum(p["wall_seconds"] for p in outcome["phases"].values()))
    added_seconds = statistics.median(added[1:])
    data_bytes = Path(job.prepared.split_path).stat().st_size
    added_bytes = outcome["phases"]["fit"]["start_rss_bytes"] - import_bytes - data_bytes

    print(f"\na job: imports {import_seconds:.2f} s and {import_bytes / 1e6:.0f} MB, data {data_bytes / 1e6:.0f} MB")
    print(f"the harness adds {added_seconds:.2f} s (goal: 1 s) and {added_bytes / 1e6:.0f} MB (goal: 50 MB)")
    assert added_seconds < 1.0
    assert added_bytes < 50e6
