"""What is said to CUDA, with a driver that only takes notes, and what is said to the user where there is none."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import octavo
import pytest
from octavo.backends.ptx.device import CudaDevice, cuda_target
from octavo.backends.ptx.kernel import Entry
from octavo.backends.target import find_target
from octavo.ir.errors import OctavoError, ShapeError, TargetError
from octavo.ir.loops import Sym

from . import models
from .emulated import executable


class Driver(ModuleType):
    """Stands in for `pycuda.driver`: one device, memory that counts up, a list of calls."""

    class Error(Exception):
        pass

    def __init__(self, capability: tuple[int, int] = (9, 0), devices: int = 1):
        super().__init__("pycuda.driver")
        self.capability, self.devices = capability, devices
        self.calls: list[tuple[Any, ...]] = []
        self.depth = 0
        self.Context = SimpleNamespace(pop=lambda: self.note("pop"))

    def note(self, *call: Any) -> None:
        self.calls.append(call)

    def init(self) -> None:
        if not self.devices:
            raise self.Error("no CUDA-capable device is detected")

    def Device(self, ordinal: int) -> Any:
        context = SimpleNamespace(push=lambda: self.note("push"))
        return SimpleNamespace(
            name=lambda: "Pretender 100", compute_capability=lambda: self.capability, retain_primary_context=lambda: context
        )

    def module_from_buffer(self, text: bytes) -> Any:
        if b"broken" in text:
            raise self.Error("a PTX JIT compilation failed")

        def get_function(symbol: str) -> Any:
            prepare = lambda types: self.note("prepare", symbol, types)
            return SimpleNamespace(prepare=prepare, prepared_call=lambda *arguments: self.note("launch", symbol, *arguments))

        return SimpleNamespace(get_function=get_function)

    def mem_alloc(self, nbytes: int) -> int:
        self.note("alloc", nbytes)
        return 4096

    def memcpy_htod(self, address: int, data: np.ndarray) -> None:
        self.note("upload", address, data.nbytes)


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    package = ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package if driver else None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


@pytest.mark.parametrize("target", ["cuda", "sm_80", "sm_90a"])
def test_without_pycuda_a_gpu_target_says_what_to_install(target: str, monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, None)
    with pytest.raises(TargetError, match=r"needs pycuda and NVIDIA's driver \(.*\); install octavo\[gpu\]"):
        octavo.compile(models.pointwise(), target=target)


def test_without_a_gpu_that_is_said(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, Driver(devices=0))
    with pytest.raises(TargetError, match="there is no GPU that CUDA can use: no CUDA-capable device is detected"):
        octavo.compile(models.pointwise(), target="cuda")


@pytest.mark.parametrize(("capability", "name"), [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90a"), ((10, 0), "sm_80")])
def test_cuda_is_the_best_target_for_the_gpu(capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, Driver(capability))
    assert cuda_target() is find_target(name)


def test_code_for_another_gpu_is_refused(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, Driver((7, 5)))
    with pytest.raises(TargetError, match="Pretender 100 is older than sm_80"):
        cuda_target()
    with pytest.raises(TargetError, match=r"is of compute capability 7\.5 and cannot run code for sm_80"):
        octavo.compile(models.pointwise(), target="sm_80")


def test_a_launch_passes_addresses_then_sizes(monkeypatch: pytest.MonkeyPatch):
    driver = Driver()
    install(monkeypatch, driver)
    device = CudaDevice("// PTX", find_target("sm_90a"))
    driver.calls.clear()
    for n in (5, 6):
        device.using(lambda n=n: device.launch(Entry("kernel", Sym("n"), 64), 7, [4096, 8192], [n]))
    assert driver.calls == [
        ("push",),
        ("prepare", "kernel", [np.uintp, np.uintp, np.int64]),
        ("launch", "kernel", (7, 1), (64, 1, 1), 4096, 8192, 5),
        ("pop",),
        ("push",),
        ("launch", "kernel", (7, 1), (64, 1, 1), 4096, 8192, 6),
        ("pop",),
    ]


def test_a_fault_of_the_driver_is_an_octavo_error(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, Driver())
    with pytest.raises(OctavoError, match="the GPU failed: a PTX JIT compilation failed"):
        CudaDevice("broken", find_target("sm_80"))


def test_a_model_on_a_gpu_is_not_saved(monkeypatch: pytest.MonkeyPatch, tmp_path):
    install(monkeypatch, Driver())
    model = octavo.compile(models.pointwise(), target="cuda")
    with pytest.raises(TargetError, match="a model compiled for a GPU cannot be saved"):
        model.save(tmp_path / "model.octavo")


def test_a_call_checks_its_inputs_before_anything_reaches_the_device():
    on_grid, device = executable(models.pointwise())
    with pytest.raises(ShapeError, match="dimension 1 is 299 and must be 300"):
        on_grid.run([np.zeros((2, 299), np.float32), np.zeros(300, np.float32)])
    assert device.launched == []


def test_memory_grows_with_the_sizes_and_is_kept():
    on_grid, device = executable(models.pointwise())
    y = np.zeros(300, np.float32)
    for n in (1, 50, 2):
        on_grid.run([np.zeros((n, 300), np.float32), y])
    grown = device.memory.size
    on_grid.run([np.zeros((50, 300), np.float32), y])
    assert device.memory.size == grown
