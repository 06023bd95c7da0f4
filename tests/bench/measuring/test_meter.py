import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recscale.measuring.meter import Meter, PhaseCost, peak_rss_of
from recscale.records.record import Phase

MB = 1_000_000
needs_high_water_mark = pytest.mark.skipif(Meter().method != "vmhwm", reason="the kernel cannot set VmHWM back")


@needs_high_water_mark
def test_a_phase_that_frees_its_memory_shows_its_peak_and_the_next_does_not(run_fresh):
    done = run_fresh(
        """
        import numpy as np
        from recscale.measuring.meter import Meter

        meter = Meter()
        with meter.phase("fit"):
            array = np.ones(25_000_000)
            del array
        with meter.phase("score"):
            pass
        for cost in meter.phases.values():
            print(cost.peak_rss_bytes - cost.start_rss_bytes)
        """
    )

    fit_rise, score_rise = (int(line) for line in done.stdout.split())
    assert 195 * MB <= fit_rise <= 230 * MB
    assert score_rise < 20 * MB


@needs_high_water_mark
def test_small_objects_that_were_freed_do_not_count_in_the_next_phase(run_fresh):
    done = run_fresh(
        """
        from recscale.measuring.meter import Meter

        meter = Meter()
        with meter.phase("load"):
            blocks = [bytearray(20_000) for _ in range(10_000)]
            blocks = blocks[-1:]
        with meter.phase("fit"):
            pass
        load, fit = meter.phases.values()
        print(load.peak_rss_bytes - load.start_rss_bytes, fit.start_rss_bytes - load.start_rss_bytes)
        """
    )

    load_rise, left = (int(word) for word in done.stdout.split())
    assert load_rise > 190 * MB
    assert left < 50 * MB


def test_where_the_mark_cannot_be_set_back_memory_is_sampled_and_the_meter_says_so(run_fresh):
    done = run_fresh(
        """
        import time
        from pathlib import Path
        import numpy as np
        from recscale.measuring.meter import Meter

        meter = Meter(process=Path("nowhere"))
        with meter.phase("fit"):
            array = np.ones(25_000_000)
            time.sleep(0.5)
            del array
        with meter.phase("score"):
            pass
        fit, score = meter.phases.values()
        print(meter.method, fit.peak_rss_bytes - fit.start_rss_bytes, score.peak_rss_bytes - score.start_rss_bytes)
        """
    )

    method, fit_rise, score_rise = done.stdout.split()
    assert method == "sampled"
    assert 195 * MB <= int(fit_rise) <= 230 * MB
    assert int(score_rise) < 20 * MB


def test_a_mark_that_ignores_being_set_back_is_not_believed(tmp_path):
    (tmp_path / "clear_refs").write_text("")
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  900000 kB\nVmRSS:\t  100000 kB\n")

    assert Meter(process=tmp_path).method == "sampled"


def test_a_phase_that_raises_is_recorded_as_far_as_it_got(run_fresh):
    done = run_fresh(
        """
        import numpy as np
        from recscale.measuring.meter import Meter

        meter = Meter()
        try:
            with meter.phase("fit"):
                array = np.ones(25_000_000)
                raise RuntimeError("broken")
        except RuntimeError as error:
            print(error, meter.failed_phase)
        cost = meter.phases["fit"]
        print(cost.peak_rss_bytes - cost.start_rss_bytes)
        """
    )

    first, second = done.stdout.splitlines()
    assert first == "broken fit"
    assert int(second) > 190 * MB


@pytest.mark.skipif(sys.platform != "linux", reason="the limit needs Linux")
def test_a_phase_that_used_up_all_memory_is_recorded_and_classified(run_fresh):
    done = run_fresh(
        """
        from recscale.measuring.budget import apply_memory_limit, classify
        from recscale.measuring.meter import Meter

        meter = Meter()
        apply_memory_limit(150_000_000)
        kept = []
        try:
            with meter.phase("fit"):
                while True:
                    kept.append([0] * 20)
        except MemoryError as error:
            print(classify(error), list(meter.phases), meter.failed_phase)
        """
    )

    assert done.stdout == "out_of_memory ['fit'] fit\n", done.stderr


def test_cpu_seconds_count_what_children_used():
    meter = Meter()
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    with meter.phase("fit"):
        subprocess.run([sys.executable, "-c", burn], check=True)

    assert meter.phases["fit"].cpu_seconds >= 0.3


def test_waiting_costs_wall_seconds_but_hardly_cpu_seconds(run_fresh):
    done = run_fresh(
        """
        import time
        from pathlib import Path
        from recscale.measuring.meter import Meter

        meter = Meter(process=Path("nowhere"))
        with meter.phase("load"):
            time.sleep(0.5)
        cost = meter.phases["load"]
        print(cost.wall_seconds >= 0.5, cost.cpu_seconds < cost.wall_seconds)
        """
    )

    assert done.stdout == "True True\n", done.stderr


def test_phases_do_not_nest_and_are_measured_once():
    meter = Meter()
    with meter.phase("load"), pytest.raises(ValueError, match="phase 'fit' cannot start"), meter.phase("fit"):
        pass
    with pytest.raises(ValueError, match="phase 'load' cannot start"), meter.phase("load"):
        pass

    assert list(meter.phases) == ["load"]


def test_a_cost_has_the_fields_of_a_recorded_phase():
    names = tuple(field.name for field in dataclasses.fields(PhaseCost))

    assert names == Phase.__struct_fields__


def test_energy_of_a_phase_is_what_the_counters_rose_by(tmp_path):
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    (zone / "energy_uj").write_text("1000000")
    meter = Meter(system=tmp_path)
    with meter.phase("fit"):
        (zone / "energy_uj").write_text("8500000")

    assert meter.phases["fit"].energy_joules == pytest.approx(7.5)
    assert meter.energy_sources == ("cpu",)


def test_on_a_machine_without_counters_energy_is_none(tmp_path):
    meter = Meter(system=tmp_path)
    with meter.phase("fit"):
        pass

    assert meter.phases["fit"].energy_joules is None
    assert meter.energy_sources == ()


class FakeCuda:
    """An allocator that, as torch's, keeps a peak and fails when it is waited for."""

    def __init__(self):
        self.held = self.peak = 0
        self.calls = []
        self.fault = None

    def is_initialized(self):
        return True

    def synchronize(self, device):
        self.calls.append(("synchronize", device))
        if self.fault:
            raise self.fault

    def empty_cache(self):
        self.calls.append(("empty_cache",))

    def reset_peak_memory_stats(self, device):
        self.peak = self.held

    def max_memory_allocated(self, device):
        return self.peak

    def allocate(self, n_bytes):
        self.held += n_bytes
        self.peak = max(self.peak, self.held)


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake))
    return fake


def test_device_memory_is_the_peak_of_torch_within_the_phase(cuda):
    meter = Meter("cuda:0")
    with meter.phase("fit"):
        cuda.allocate(500)
        cuda.allocate(-400)
    with meter.phase("score"):
        cuda.allocate(50)

    assert [cost.peak_device_bytes for cost in meter.phases.values()] == [500, 150]


def test_a_phase_waits_for_the_device_before_it_ends(cuda):
    meter = Meter("cuda:1")
    with meter.phase("fit"):
        cuda.calls.clear()

    assert cuda.calls == [("synchronize", "cuda:1")]


def test_a_kernel_that_fails_late_fails_the_phase_that_started_it(cuda):
    meter = Meter("cuda:0")
    with pytest.raises(RuntimeError, match="device-side assert"), meter.phase("fit"):
        cuda.fault = RuntimeError("CUDA error: device-side assert triggered")

    assert meter.failed_phase == "fit"
    assert "fit" in meter.phases


def test_a_phase_on_the_processor_leaves_the_device_alone(cuda):
    meter = Meter("cpu")
    with meter.phase("fit"):
        pass

    assert cuda.calls == []
    assert meter.phases["fit"].peak_device_bytes is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_peak_of_another_process_can_be_asked_for():
    code = "import sys; block = bytearray(100_000_000); del block; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        peak = peak_rss_of(child.pid)
        child.stdin.close()

    assert peak > 100 * MB
    assert peak_rss_of(child.pid) is None or child.pid == os.getpid()


def test_what_a_phase_has_cost_so_far_can_be_asked_while_it_runs():
    meter = Meter()
    assert meter.so_far() is None

    with meter.phase("fit"):
        time.sleep(0.02)
        first = meter.so_far()
        second = meter.so_far()

    assert 0.02 <= first.wall_seconds <= second.wall_seconds <= meter.phases["fit"].wall_seconds
    assert first.energy_joules is None and first.cpu_seconds >= 0
    assert meter.so_far() is None
