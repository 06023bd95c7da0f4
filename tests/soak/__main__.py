"""A soak: two runners share a store while faults are thrown at them; afterwards every job must have its record.

Run as `python tests/soak --jobs 500 --seed 0`. Prints a table of figures, and writes it to --out. The exit code is 1
if anything was lost, doubled or half-written, or if a runner did what no fault accounts for.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from audit import audit, repeated_fits
from faults import Faults
from runners import JOBS_AT_A_TIME, Bench, Runner, wait_for_none
from table import Figures, table_of

OWN_MOUNTS = "SOAK_OWN_MOUNTS"  # set in a process that may mount file systems which nobody else sees
STORE_BYTES, STORE_FILES = "64m", 8192
LOOK_SECONDS = 0.2
TELL_SECONDS = 30.0
SETTLED_AFTER = 0.3  # of the jobs: the memory of the first runner, spared by then, is watched from there on


def main() -> int:
    """Run the soak that the command line asks for; return the exit code."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):  # children of a job in the background would ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    if OWN_MOUNTS not in os.environ:
        _go_where_mounts_are_free()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        n_seeds = max(1, round(options.jobs / 50))
        bench = Bench(
            folder=Path(folder),
            store=Path(folder) / "disk" / "store",
            n_widths=options.jobs // n_seeds - 2,
            n_seeds=n_seeds,
            timeout_seconds=options.timeout,
        )
        bench.make()
        bench.store.parent.mkdir()
        can_fill = _mount(bench.store.parent)
        try:
            figures = soak(bench, random.Random(options.seed), can_fill)
            if options.keep:
                shutil.copytree(bench.folder, options.keep, dirs_exist_ok=True)
        finally:
            if can_fill:
                subprocess.run(["umount", "--lazy", bench.store.parent], check=True)
    told = table_of(figures, options.seed)
    print(told)
    if options.out:
        options.out.write_text(told + "\n")
    return 0 if figures.is_fine else 1


def soak(bench: Bench, rng: random.Random, can_fill: bool) -> Figures:
    """Run all jobs under faults, then once more without; return what was found."""
    started = time.monotonic()
    runners = [Runner(bench, "first runner"), Runner(bench, "second runner")]
    faults = Faults(bench, runners, rng, can_fill)
    memory = _run_under_faults(bench, runners, faults)
    faults.damage()  # most of what was damaged before has been repaired by a later start of a runner
    before = audit(bench)
    content = {path: path.read_bytes() for path in bench.files()}
    repair = subprocess.run(
        [*bench.command(), "--json"], capture_output=True, text=True, env=bench.environment(), check=False
    )
    after = audit(bench)
    broken = {path.stem for path in before.broken}
    lost = {path.stem for path in content} - {path.stem for path in bench.files()}
    changed = {p.stem for p, was in content.items() if p.stem not in lost and p.read_bytes() != was}
    return Figures(
        n_jobs=len(bench.jobs),
        faults=dict(faults.made),
        not_made=faults.n_left,
        can_fill=can_fill,
        n_starts=sum(runner.n_starts for runner in runners),
        before=before,
        after=after,
        damaged=faults.damaged,
        repaired=len(changed & broken),
        needless=len(changed - broken),
        repeated_fits=repeated_fits(bench),
        repeats_accounted_for=JOBS_AT_A_TIME * sum(r.n_starts - 1 for r in runners) + faults.n_damages,
        complaints=[line for runner in runners for line in runner.complaints] + _complaint(repair, bench),
        processes=[" ".join(process.cmdline()) for process in wait_for_none(bench)],
        memory=memory,
        seconds=time.monotonic() - started,
    )


def _run_under_faults(bench: Bench, runners: list[Runner], faults: Faults) -> np.ndarray:
    """Run until both runners have ended well; return finished jobs and bytes of the first runner (N, 2)."""
    samples, told = [], time.monotonic()
    settled = SETTLED_AFTER * len(bench.jobs)
    try:
        while not all(runner.ended_well for runner in runners) and not any(runner.complaints for runner in runners):
            for runner in runners:
                if not runner.look() and not runner.ended_well:
                    runner.start()
            n_done = sum(path.suffix == ".json" for path in bench.files())
            faults.make(n_done)
            rss = runners[0].rss_bytes()
            if n_done >= settled and rss:
                samples.append((n_done, rss))
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                line = f"{n_done} of {len(bench.jobs)} jobs, {faults.made.total()} faults"
                print(line, file=sys.stderr, flush=True)
            time.sleep(LOOK_SECONDS)
    finally:
        for runner in runners:
            runner.end(signal.SIGKILL)
    return np.array(samples, dtype=np.float64).reshape(-1, 2)


def _complaint(repair: subprocess.CompletedProcess[str], bench: Bench) -> list[str]:
    """Return what is wrong with the run without faults."""
    n_told = len(repair.stdout.splitlines())
    if repair.returncode == 0 and n_told == len(bench.jobs) and "Traceback" not in repair.stderr:
        return []
    tail = " | ".join(repair.stderr.splitlines()[-12:])
    return [f"the run without faults ended with exit code {repair.returncode} and {n_told} records: {tail}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500, help="how many, at least 10 (500)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    parser.add_argument("--timeout", type=int, default=30, help="seconds that a job may take (30)")
    parser.add_argument("--out", type=Path, help="file to write the table to, as Markdown")
    parser.add_argument("--keep", type=Path, help="folder to leave the store and the logs in")
    options = parser.parse_args()
    if options.jobs < 10:
        parser.error(f"--jobs {options.jobs} is too few for a soak; give at least 10")
    return options


def _go_where_mounts_are_free() -> None:
    """Go on in a process that may mount a small file system; return where that cannot be."""
    for kind in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        if not shutil.which("unshare"):
            return
        command = ["unshare", *kind]
        with tempfile.TemporaryDirectory() as folder:
            trial = subprocess.run([*command, "mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
        if trial.returncode == 0:
            os.environ[OWN_MOUNTS] = "1"
            os.execvp("unshare", [*command, sys.executable, *sys.orig_argv[1:]])


def _mount(folder: Path) -> bool:
    """Mount a file system that can be filled; tell whether that could be done."""
    if OWN_MOUNTS not in os.environ:
        return False
    size = f"size={STORE_BYTES},nr_inodes={STORE_FILES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder], check=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
