"""GPUs are counted as their drivers tell, and memory as its limits say, without torch."""

import os
from pathlib import Path

import pytest

from lab.engine.utils import machine


@pytest.fixture
def amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree of AMD's driver on a node with two CPUs and eight GPUs, one of which this container may not read."""
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "AMD_NODES", tmp_path)
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))  # no driver of NVIDIA's
    monkeypatch.setattr("sys.platform", "linux")
    for node in range(10):
        (tmp_path / str(node)).mkdir()
        (tmp_path / str(node) / "gpu_id").write_text(f"{0 if node < 2 else 5000 + node}\n")
    (tmp_path / "9" / "gpu_id").unlink()
    (tmp_path / "9" / "gpu_id").mkdir()  # reading it is an OSError, as of a GPU of others
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 7),
        ({"HIP_VISIBLE_DEVICES": "0,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"ROCR_VISIBLE_DEVICES": "0,1,2,3", "HIP_VISIBLE_DEVICES": "2"}, 1),
        ({"HIP_VISIBLE_DEVICES": "-1"}, 0),
    ],
)
def test_amd_gpus_are_counted(
    variables: dict[str, str], count: int, amd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.count_gpus() == count


def test_a_machine_without_drivers_has_none(amd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "AMD_NODES", tmp_path / "none")
    assert machine.count_gpus() == 0


def test_memory_is_the_machines_or_that_of_a_control_group_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    whole = machine.memory_limit()
    assert whole == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_limit() == whole
    (tmp_path / "memory.max").write_text("2000000000\n")
    assert machine.memory_limit() == 2_000_000_000


def test_a_compiler_is_the_variables_or_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcc", "mine"):
        (tmp_path / name).touch(mode=0o755)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (machine.find_compiler("CC"), machine.find_compiler("CXX")) == (str(tmp_path / "gcc"), None)
    monkeypatch.setenv("CXX", "mine -v")
    assert machine.find_compiler("CXX") == str(tmp_path / "mine")
