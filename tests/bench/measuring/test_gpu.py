import pytest


@pytest.mark.parametrize(
    ("visible", "indices"),
    [("0,1", [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("GPU-b", [1]), ("", []), ("-1", []), ("1,7,0", [1])],
)
def test_gpus_appear_as_cuda_visible_devices_has_them(run_with_gpus, visible, indices):
    done = run_with_gpus(
        "from recscale.measuring.gpu import visible_gpus; print([gpu.index for gpu in visible_gpus()])",
        CUDA_VISIBLE_DEVICES=visible,
    )

    assert done.stdout == f"{indices}\n", done.stderr


def test_without_a_choice_all_gpus_appear_with_name_and_memory(run_with_gpus):
    done = run_with_gpus(
        """
        import os
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        from recscale.measuring.gpu import visible_gpus
        print([(gpu.name, gpu.memory_bytes) for gpu in visible_gpus()])
        """
    )

    assert done.stdout == f"{[('NVIDIA H100 80GB HBM3', 80_000_000_000)] * 2}\n", done.stderr


def test_an_index_among_different_gpus_says_nothing_unless_their_order_is_set(run_with_gpus):
    code = """
        import pynvml
        pynvml.nvmlDeviceGetName = {"handle-0": "slow", "handle-1": "fast"}.get
        from recscale.measuring.gpu import gpu_of
        gpu = gpu_of("cuda:0")
        print(gpu and gpu.name)
        """
    unordered = run_with_gpus(code, CUDA_VISIBLE_DEVICES="0,1", CUDA_DEVICE_ORDER="FASTEST_FIRST")
    ordered = run_with_gpus(code, CUDA_VISIBLE_DEVICES="0,1", CUDA_DEVICE_ORDER="PCI_BUS_ID")

    assert (unordered.stdout, ordered.stdout) == ("None\n", "slow\n"), unordered.stderr + ordered.stderr


def test_the_peak_of_a_process_on_a_gpu_is_its_own_and_begins_anew(run_with_gpus):
    done = run_with_gpus(
        """
        import pynvml
        from recscale.measuring.gpu import DeviceMemory

        memory = DeviceMemory("cuda:0")
        memory.start()
        for pynvml.own in (2_000, 5_000, 1_000):
            memory.sample()
        print(memory.stop(), memory.method)
        memory.start()
        print(memory.stop())
        """
    )

    assert done.stdout == "(None, 5000) nvml-process\n(None, 1000)\n", done.stderr


def test_where_the_driver_does_not_know_the_process_the_rise_of_the_gpu_counts(run_with_gpus):
    done = run_with_gpus(
        """
        import pynvml
        from recscale.measuring.gpu import DeviceMemory

        memory = DeviceMemory("cuda:1")
        memory.start()
        pynvml.used[1] += 4_000
        memory.sample()
        pynvml.used[1] -= 1_000
        print(memory.stop(), memory.method)
        """
    )

    assert done.stdout == "(None, 4000) nvml-device\n", done.stderr


def test_the_processor_has_no_device_memory(run_with_gpus):
    done = run_with_gpus(
        """
        from recscale.measuring.gpu import DeviceMemory

        memory = DeviceMemory("cpu")
        memory.start()
        print(memory.stop(), memory.method)
        """
    )

    assert done.stdout == "(None, None) None\n", done.stderr
