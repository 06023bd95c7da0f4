import errno
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from recscale.errors import (
    DeadlineExceeded,
    DeviceUnavailable,
    MissingExtra,
    ModelError,
    OutOfMemory,
    Refused,
    UsageError,
)
from recscale.measuring.budget import (
    Budget,
    classify,
    classify_exit,
    die_with_parent,
    limit_gpu_memory,
    machine_memory_limit,
    parse_bytes,
    parse_seconds,
    refusal,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit needs Linux")


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("8 gb", 8 * 10**9),
        ("8g", 8 * 10**9),
        ("8Gi", 8 * 2**30),
        ("500M", 5 * 10**8),
        ("500MiB", 500 * 2**20),
        ("64kB", 64_000),
        ("64KiB", 65_536),
        ("1.5TB", 15 * 10**11),
        ("0.5GiB", 2**29),
        ("2PB", 2 * 10**15),
        ("1.1GB", 11 * 10**8),
        ("100", 100),
        ("100B", 100),
        (" 7 MB ", 7 * 10**6),
        ("8e9", 8 * 10**9),
        (12_345, 12_345),
        (8e9, 8 * 10**9),
        ("9007199254740993", 9_007_199_254_740_993),
    ],
)
def test_an_amount_of_memory_is_read(text, n_bytes):
    assert parse_bytes(text) == n_bytes


BAD_BYTES = [
    "",
    " ",
    "GB",
    "8XB",
    "8 gigabytes",
    "-8GB",
    "0",
    "0GB",
    "0.4",
    "8,5GB",
    "8iB",
    "8i",
    "nan",
    "inf",
    "1e99GB",
]


@pytest.mark.parametrize("text", [*BAD_BYTES, "8GB8", "0x10", "99999999TB", -1, 0, True, float("nan"), None, [8]])
def test_what_is_no_amount_of_memory_is_a_usage_error_of_one_line(text):
    with pytest.raises(UsageError, match=r"is no amount of memory; expected .* as in 8GB") as caught:
        parse_bytes(text)

    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("10min", 600),
        ("1h30m", 5400),
        ("1h 30m 5s", 5405),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("2D3H", 183_600),
        ("500ms", 0.5),
        ("1s500ms", 1.5),
        (" 5 m ", 300),
        ("1e3", 1000),
        (30, 30),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


BAD_DURATIONS = ["", "m", "10x", "-5m", "0", "0h0m", "1h30", "30m1h", "5m5m", "90 30", "10 m m", "1:30", "nan", "inf"]


@pytest.mark.parametrize("text", [*BAD_DURATIONS, "ten minutes", 0, -3, True, float("inf"), None])
def test_what_is_no_duration_is_a_usage_error_of_one_line(text):
    with pytest.raises(UsageError, match=r"is no duration; expected .* as in 90, 90s, 10m or 1h30m") as caught:
        parse_seconds(text)

    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("name", ["timeout_seconds", "max_memory_bytes", "max_gpu_memory_bytes"])
def test_a_budget_has_no_limit_unless_told_and_none_that_is_not_positive(name):
    assert getattr(Budget(), name) is None
    assert getattr(Budget(**{name: 5}), name) == 5
    for value in (0, -1):
        with pytest.raises(UsageError, match=f"{name}={value}"):
            Budget(**{name: value})


def test_a_job_that_needs_too_much_is_refused_with_both_figures():
    assert refusal(729_400_000_000, 8 * 10**9) == "needs about 729 GB, the limit is 8 GB"
    assert refusal(9 * 10**9, 8 * 10**9, what="GPU memory") == "needs about 9 GB of GPU memory, the limit is 8 GB"


def test_figures_that_would_read_the_same_are_written_out():
    assert refusal(8_000_000_001, 8 * 10**9) == "needs about 8,000,000,001 bytes, the limit is 8,000,000,000 bytes"


@pytest.mark.parametrize(("estimate", "limit"), [(8, 8), (7, 8), (None, 8), (8, None), (None, None)])
def test_a_job_that_fits_or_whose_need_is_unknown_is_not_refused(estimate, limit):
    assert refusal(estimate, limit) is None


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_memory_of_the_machine_is_what_its_container_has_left(tmp_path):
    group = "sys/fs/cgroup/slice/box"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/box\n",
            f"{group}/memory.max": "50000000",
            f"{group}/memory.current": "30000000",
            f"{group}/memory.stat": "anon 9\nactive_file 4000000\ninactive_file 6000000\n",
            "sys/fs/cgroup/slice/memory.max": "max",
        },
    )

    assert machine_memory_limit(tmp_path) == 50_000_000 - (30_000_000 - 10_000_000)


def test_a_group_further_out_may_be_the_tighter_one(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/box\n",
            "sys/fs/cgroup/slice/box/memory.max": "50000000",
            "sys/fs/cgroup/slice/memory.max": "20000000",
            "sys/fs/cgroup/slice/memory.current": "15000000",
        },
    )

    assert machine_memory_limit(tmp_path) == 5_000_000


def test_the_older_control_groups_are_read_where_the_path_is_that_of_the_host(tmp_path):
    mount = "sys/fs/cgroup/memory"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/x\n4:memory:/docker/abc\n0::/\n",
            f"{mount}/memory.limit_in_bytes": "40000000",
            f"{mount}/memory.usage_in_bytes": "10000000",
            f"{mount}/memory.stat": "active_file 1\ntotal_active_file 2000000\ntotal_inactive_file 1000000\n",
        },
    )

    assert machine_memory_limit(tmp_path) == 40_000_000 - 7_000_000


def test_without_a_container_the_memory_is_the_physical_one(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )

    assert machine_memory_limit(tmp_path) > 2**26


PROVOKE = """
from recscale.measuring.budget import apply_memory_limit, classify
{imports}
apply_memory_limit({limit})
try:
    {statement}
except Exception as error:
    print(classify(error))
"""
START_THREAD = """
import threading, time
def start(): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""


@linux
@pytest.mark.parametrize(
    ("imports", "limit", "statement"),
    [
        ("import numpy as np", 400_000_000, "np.ones(10**9)"),
        ("import scipy.linalg, numpy as np", 800_000_000, "scipy.linalg.inv(np.eye(6000))"),
        ("import torch", 1_500_000_000, "torch.ones(10**9)"),
        ("", 200_000_000, "bytearray(10**9)"),
        (START_THREAD, 100_000_000, "[start() for _ in range(100)]"),
    ],
    ids=["numpy", "scipy", "torch", "python", "threads"],
)
def test_memory_beyond_the_limit_is_out_of_memory_in_each_librarys_way(run_fresh, imports, limit, statement):
    done = run_fresh(PROVOKE.format(imports=imports, limit=limit, statement=statement))

    assert done.stdout == "out_of_memory\n", done.stderr


@linux
def test_a_library_that_ends_the_process_is_out_of_memory_by_what_it_said(run_fresh):
    done = run_fresh(
        """
        from recscale.measuring.budget import apply_memory_limit
        apply_memory_limit(30_000_000)
        import numpy as np
        np.ones((500, 500), np.float32) @ np.ones((500, 500), np.float32)
        """
    )

    assert done.returncode != 0
    assert classify_exit(done.returncode, (done.stdout + done.stderr).splitlines())[0] == "out_of_memory"


@linux
def test_the_limit_cannot_be_raised_again(run_fresh):
    done = run_fresh(
        """
        import resource
        from recscale.measuring.budget import apply_memory_limit
        apply_memory_limit(500_000_000)
        apply_memory_limit(900_000_000)
        print(resource.getrlimit(resource.RLIMIT_DATA))
        """
    )

    assert done.stdout == "(500000000, 500000000)\n", done.stderr


def foreign(name, module, message="", base=Exception):
    """Return an exception of a class that another library has under this name."""
    return type(name, (base,), {"__module__": module})(message)


def caused_by(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (RuntimeError("Memory error in scipy.linalg.inv."), "out_of_memory"),
        (foreign("CholmodOutOfMemoryError", "sksparse.cholmod", "out of memory"), "out_of_memory"),
        (foreign("TerminatedWorkerError", "joblib", "The exit codes are {SIGKILL(-9)}"), "out_of_memory"),
        (OutOfMemory("too much"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_gpu_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_gpu_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_gpu_memory"),
        (MemoryError("std::bad_alloc: cudaErrorMemoryAllocation"), "out_of_gpu_memory"),
        (foreign("OutOfMemoryError", "torch", "out", RuntimeError), "out_of_gpu_memory"),
        (foreign("OutOfMemoryError", "cupy.cuda.memory", "Out of memory", MemoryError), "out_of_gpu_memory"),
        (DeadlineExceeded("the time is up"), "timeout"),
        (Refused("needs too much"), "refused"),
        (MissingExtra("sksparse", "cholmod"), "skipped"),
        (DeviceUnavailable("no GPU"), "skipped"),
        (ModelError("NaN"), "error"),
        (caused_by(ModelError("fit failed"), MemoryError()), "out_of_memory"),
        (caused_by(ModelError("fit failed"), ValueError("x")), "error"),
        (foreign("OutOfMemoryError", "elsewhere"), "error"),
        (TimeoutError("a download stalled"), "error"),
        (RuntimeError("can't start new thread"), "error"),
        (ValueError("the memory of an elephant"), "error"),
        (KeyError("memory"), "error"),
    ],
)
def test_an_exception_has_the_status_that_it_means(exception, status):
    assert classify(exception) == status


def test_a_circle_of_causes_comes_to_an_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert classify(first) == "error"


@pytest.mark.parametrize(
    ("return_code", "log_tail", "status", "reason"),
    [
        (-9, [], "out_of_memory", "killed by SIGKILL"),
        (137, ["epoch 3"], "out_of_memory", "killed by SIGKILL"),
        (1, ["x", "OpenBLAS: malloc failed in inv", "y"], "out_of_memory", "OpenBLAS: malloc failed in inv"),
        (1, ["OpenBLAS blas_thread_init: pthread_create failed"], "out_of_memory", "exit code 1"),
        (1, ["OpenBLAS error: Memory allocation still failed after 10 retries"], "out_of_memory", "after 10 retries"),
        (
            -6,
            ["terminate called", "  what():  std::bad_alloc"],
            "out_of_memory",
            "died by SIGABRT, having said: what()",
        ),
        (1, ["fork: Cannot allocate memory"], "out_of_memory", "Cannot allocate memory"),
        (1, ["numpy._core._exceptions._ArrayMemoryError: Unable to allocate"], "out_of_memory", "Unable to allocate"),
        (1, ["CUDA error: out of memory"], "out_of_gpu_memory", "CUDA error: out of memory"),
        (-11, ["epoch 3", ""], "error", "died by SIGSEGV, last line of the log: epoch 3"),
        (139, [], "error", "died by SIGSEGV, nothing in the log"),
        (-15, [], "error", "died by SIGTERM"),
        (-40, [], "error", "died by signal 40"),
        (3, ["Traceback", "ValueError: no"], "error", "exit code 3), last line of the log: ValueError: no"),
        (0, [], "error", "ended without a result (exit code 0)"),
        (255, [], "error", "exit code 255"),
    ],
)
def test_a_worker_that_died_has_the_status_that_its_end_means(return_code, log_tail, status, reason):
    found = classify_exit(return_code, log_tail)

    assert found[0] == status
    assert reason in found[1]
    assert "\n" not in found[1]


def test_a_worker_that_was_really_killed_is_out_of_memory():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        child.send_signal(signal.SIGKILL)

    assert classify_exit(child.wait())[0] == "out_of_memory"


PARENT = """
import subprocess, sys
child = '''
import os, sys, time
from recscale.measuring.budget import die_with_parent
die_with_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(5)
print("survived", flush=True)
'''
import os
process = subprocess.Popen([sys.executable, "-c", child, {parent_pid}])
process.wait()
"""


@linux
def test_a_child_dies_with_its_parent():
    command = [sys.executable, "-c", PARENT.format(parent_pid="str(os.getpid())")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        first = parent.stdout.readline()
        parent.kill()
        rest = parent.stdout.read()  # ends when the child, which holds the other end, is gone too

    assert (first, rest) == ("ready\n", "")


@linux
def test_a_child_whose_parent_is_gone_already_ends_at_once(run_fresh):
    done = run_fresh(PARENT.format(parent_pid="'1'"))

    assert done.stdout == ""


@pytest.mark.skipif(sys.platform == "linux", reason="Linux can do it")
def test_off_linux_dying_with_the_parent_is_declined():
    assert die_with_parent() is False


def test_gpu_memory_is_limited_as_a_share_of_what_the_device_has():
    calls = []
    properties = SimpleNamespace(total_memory=80 * 10**9)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_properties=lambda device: properties,
        set_per_process_memory_fraction=lambda share, device: calls.append((share, device)),
    )
    torch = SimpleNamespace(cuda=cuda)
    limit_gpu_memory(20 * 10**9, "cuda:1", torch)
    limit_gpu_memory(200 * 10**9, "cuda:0", torch)

    assert calls == [(0.25, "cuda:1"), (1.0, "cuda:0")]


def test_gpu_memory_that_cannot_be_limited_is_said_so():
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))

    with pytest.raises(DeviceUnavailable, match="no limit on GPU memory can be set"):
        limit_gpu_memory(10**9, "cuda:0", torch)
