"""The benchmark of training prints a row for what this machine can do, and says what it cannot."""

import pytest

from tests.conftest import SMALL, run_script

SHORT = [*SMALL, "model=mlp", "trainer=cpu", "trainer.max_epochs=1", "--repeats=1"]


@pytest.mark.slow
def test_precisions_are_compared() -> None:
    done = run_script("benchmarks/speed.py", "precision", *SHORT, "--precisions=bf16-mixed,16-true", "--modes=false")
    assert done.returncode == 0, done.stderr
    left_out, _, row = done.stdout.splitlines()
    assert "16-true" in left_out
    assert "needs a GPU" in left_out
    name, mode, *figures = row.split()
    assert (name, mode) == ("bf16-mixed", "false")
    assert all(float(figure) > 0 for figure in figures)


@pytest.mark.slow
def test_ranks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run_script("benchmarks/speed.py", "scaling", *SHORT, "--ranks=3", "data.batch_size=50")
    assert done.returncode == 0, done.stderr
    left_out, _, one, two = done.stdout.splitlines()
    assert left_out.startswith("3 ranks")
    assert "data.batch_size" in left_out
    assert one.split()[::2] == ["1", "100%"]
    assert two.split()[0] == "2"
