"""Errors are of three kinds: a wrong command line, what the machine refuses, and a bug, whose traceback is shown."""

import errno
import json
import signal
import warnings
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lab.engine.cli.errors import user_errors
from lab.engine.utils.errors import Preempted, RunFailed, UserError
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL, run_script

EXPECTED = [
    (UserError("lr=-1: expected 0 or more"), 2, "error: lr=-1"),
    (RunFailed("the loss is NaN"), 1, "error: the loss is NaN"),
    (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 1, "error: /data/x: No space left on device"),
    (OSError(errno.EFBIG, "File too large", "/data/x"), 1, "error: /data/x: File too large"),
    (OSError(errno.EMFILE, "Too many open files", "/data/x"), 1, "error: /data/x: Too many open files"),
    (OSError(errno.EROFS, "Read-only file system"), 1, "paths.log_dir"),
]
BUGS = [
    ValueError("too many values to unpack"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "mine.txt"),
    PermissionError(errno.EACCES, "Permission denied", "mine.txt"),
    KeyError("x"),
]


@pytest.mark.parametrize(("error", "status", "said"), EXPECTED, ids=lambda value: type(value).__name__)
def test_what_is_expected_is_told_in_a_few_lines(
    error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    shown = capsys.readouterr().err
    assert end.value.code == status
    assert said in shown
    assert len(shown.splitlines()) <= 3


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_shows_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    shown = capsys.readouterr().err
    assert end.value.code == 1
    assert shown.startswith("Traceback")
    assert "raise error" in shown
    assert type(error).__name__ in shown.splitlines()[-1]


def test_what_a_resolver_says_is_told_without_omegaconf_s_wrapping(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise UserError("table.csv: no such file")

    OmegaConf.register_new_resolver("lab_test_refuse", refuse, replace=True)
    with pytest.raises(SystemExit) as end, user_errors():
        _ = OmegaConf.create({"dims": {"features": "${lab_test_refuse:}"}}).dims.features
    OmegaConf.clear_resolver("lab_test_refuse")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: table.csv: no such file\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Preempted(signal.SIGINT), Preempted(signal.SIGTERM)], ids=repr)
def test_signals_keep_their_exit_status(error: BaseException) -> None:
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    assert end.value.code == 128 + int(getattr(error, "signal", signal.SIGINT))


def test_nothing_of_warnings_stays_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with warnings.catch_warnings(), user_errors():
        warnings.simplefilter("always")
        warnings.warn("once on the screen", UserWarning, stacklevel=1)
    assert warnings.showwarning is before
    shown = capsys.readouterr()
    assert shown.err.count("UserWarning: once on the screen") == 1
    assert not shown.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("a, b = batch[0].shape", "model._target_=broken.Broken"),
        ("open('/nowhere/mine.txt')", "model._target_=broken.Broken"),
        ("self.no_such", "data._target_=broken.Rows"),
        ("raise RunFailed('the disk is gone')", "model._target_=broken.Broken"),
    ],
)
def test_a_bug_in_code_of_ones_own_is_shown_and_logged(line: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import warnings\n"
        "from lab.data.digits import Digits\n"
        "from lab.engine.utils.errors import RunFailed\n"
        "from lab.models.mlp import MLP\n"
        "class Broken(MLP):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        warnings.warn('mind the shape')\n"
        f"        {line}\n"
        "class Rows(Digits):\n"
        "    def train_dataloader(self):\n"
        "        warnings.warn('mind the shape')\n"
        f"        {line}\n"
    )
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import runpy, sys\n"
        "from lab.engine.config.instantiate import ALLOWED\n"
        "ALLOWED.append('broken')\n"
        f"sys.argv[0] = {str(ROOT / 'src' / 'train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    run = tmp_path / "run"
    ended = run_script(
        str(probe), "model=mlp", target, *SMALL, "trainer=cpu", "logger=none",
        "callbacks=none", f"paths.log_dir={tmp_path}", f"hydra.run.dir={run}", timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    log = run / "train.log"
    for shown in (ended.stderr, log.read_text()):
        if "RunFailed" not in line or shown != ended.stderr:
            assert "Traceback" in shown
            assert line in shown
        assert shown.count("UserWarning: mind the shape") == 1
    assert "mind the shape" not in ended.stdout
    assert str(log) in ended.stderr.splitlines()[-1]
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
