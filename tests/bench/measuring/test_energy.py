import pytest

from recscale.measuring.energy import EnergyCounter


def add_zone(system, zone, name, microjoules, wraps_at=1_000_000):
    folder = system / "powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return folder / "energy_uj"


def test_the_energy_of_all_packages_is_added_up(tmp_path):
    first = add_zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    second = add_zone(tmp_path, "intel-rapl:1", "package-1", 300_000)
    counter = EnergyCounter(system=tmp_path)
    first.write_text("350000")
    second.write_text("400000")

    assert counter.sources == ("cpu",)
    assert counter.joules() == pytest.approx(0.35)


def test_a_counter_that_wraps_is_carried_on(tmp_path):
    zone = add_zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    counter = EnergyCounter(system=tmp_path)
    zone.write_text("100000")
    counter.update()
    zone.write_text("50000")

    assert counter.joules() == pytest.approx(0.2 + 0.95)


def test_memory_counts_and_what_a_package_includes_or_is_included_in_does_not(tmp_path):
    names = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    zones = [add_zone(tmp_path, zone, name, 0) for zone, name in names.items()]
    counter = EnergyCounter(system=tmp_path)
    for microjoules, zone in zip((1_000, 20_000, 300_000, 400_000), zones, strict=True):
        zone.write_text(str(microjoules))

    assert counter.joules() == pytest.approx(0.301)


def test_the_sockets_of_the_older_amd_driver_are_read(tmp_path):
    folder = tmp_path / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    (folder / "name").write_text("amd_energy\n")
    for index, label in enumerate(("Ecore000", "Esocket0"), start=1):
        (folder / f"energy{index}_label").write_text(f"{label}\n")
        (folder / f"energy{index}_input").write_text("1000000\n")
    counter = EnergyCounter(system=tmp_path)
    (folder / "energy1_input").write_text("9000000\n")
    (folder / "energy2_input").write_text("3500000\n")

    assert counter.joules() == pytest.approx(2.5)


def test_a_machine_that_counts_nothing_gives_none(tmp_path):
    counter = EnergyCounter(system=tmp_path)

    assert counter.sources == ()
    assert counter.joules() is None


def test_the_energy_of_a_gpu_is_what_its_counter_rose_by(run_with_gpus):
    done = run_with_gpus(
        """
        from pathlib import Path
        import pynvml
        from recscale.measuring.energy import EnergyCounter
        from recscale.measuring.gpu import gpu_of

        first = EnergyCounter(gpu_of("cuda:0"), system=Path("nowhere"))
        second = EnergyCounter(gpu_of("cuda:1"), system=Path("nowhere"))
        pynvml.millijoules += 2_500
        print(first.sources, first.joules(), second.sources, second.joules())
        """
    )

    assert done.stdout == "('gpu',) 2.5 () None\n", done.stderr
