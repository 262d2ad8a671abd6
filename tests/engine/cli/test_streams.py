"""Every entry point under every condition of its streams and its locale: the same exit status, and nothing but words.

The conditions are the shell's own: redirections, a reader that leaves, variables, flags of Python.
"""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars
import pytest
from PIL import Image

from lab.engine.inference.output import show_table
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL, refusal

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# Shell around the command, flags of Python, variables, and whether all that is printed is seen
CONDITIONS: dict[str, tuple[str, list[str], dict[str, str], bool]] = {
    "reader gone": ('"$@" | true; exit ${PIPESTATUS[0]}', [], {}, False),
    "reader leaves": ('"$@" | head -1; exit ${PIPESTATUS[0]}', [], {}, False),
    "errors unread": ('{ "$@" 2>&1 >&3 | true; exit ${PIPESTATUS[0]}; } 3>&1', [], {}, False),
    "stdout closed": ('exec "$@" >&-', [], {}, False),
    "stderr closed": ('exec "$@" 2>&-', [], {}, False),
    "all closed": ('exec "$@" <&- >&- 2>&-', [], {}, False),
    "ascii": ('exec "$@"', [], {"PYTHONIOENCODING": "ascii"}, True),
    "C locale": ('exec "$@"', [], C_LOCALE, True),
    "without docstrings": ('exec "$@"', ["-OO"], {}, True),
    "narrow": ('exec "$@"', [], {"COLUMNS": "40", "TERM": "dumb"}, True),
}
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))
HELP = [["src/train.py", "--help"], *([f"scripts/{name}", "--help"] for name in SCRIPTS)]
CHECKED = {"config": ["src/train.py", "--cfg", "job"], "refused": ["src/train.py", "model=leent"]}
TRAINED = {
    "train": ["src/train.py", *SMALL, "model=mlp", "trainer.max_epochs=1", "paths.log_dir=LOGS"],
    "sweep": ["src/train.py", "-m", *SMALL, "model=mlp", "debug=fast", "seed=0,1", "paths.log_dir=LOGS"],
    "evaluate": ["scripts/evaluate.py", "run=RUN"],
    "predict": ["scripts/predict.py", "run=RUN"],
    "export": ["scripts/export.py", "run=RUN", "to=safetensors", "out=LOGS.safetensors"],
    "compare": ["scripts/compare.py", "RUN", "out=LOGS"],
    "reproduce_run": ["scripts/reproduce_run.py", "run=RUN", "force=true"],
}
TROUBLE = ("Traceback", "Logging error", "Exception ignored", "BrokenPipe", "NoneType", "Error:")


def run(condition: str, words: list[str], timeout: float = 300) -> "subprocess.CompletedProcess[bytes]":
    shell, flags, variables, _ = CONDITIONS[condition]
    command = ["bash", "-c", shell, "bash", sys.executable, *flags, str(ROOT / words[0]), *words[1:]]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment = plain | {"PYTHONPATH": str(ROOT / "src"), "LANG": "C.UTF-8"} | variables
    return subprocess.run(command, capture_output=True, timeout=timeout, env=environment, cwd=ROOT, check=False)


def assert_undisturbed(condition: str, words: list[str], status: int = 0) -> None:
    done = run(condition, words)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == status, said
    assert not [line for line in said.splitlines() if any(word in line for word in TROUBLE)]
    if CONDITIONS[condition][3]:
        assert len(said.splitlines()) > 1, "its help is None"
        assert condition != "ascii" or said.isascii()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_an_answer_survives_its_streams(condition: str) -> None:
    assert_undisturbed(condition, ["scripts/predict.py", "--help"])
    assert_undisturbed(condition, CHECKED["refused"], status=2)


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("words", [*HELP, CHECKED["config"]], ids=" ".join)
def test_every_help(words: list[str], condition: str) -> None:
    assert_undisturbed(condition, words)


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", TRAINED)
def test_every_command(name: str, condition: str, runs: dict[str, Path], tmp_path: Path, data_dir: Path) -> None:
    names = {"LOGS": str(tmp_path / "logs"), "RUN": str(runs["digits"])}
    words = []
    for word in TRAINED[name]:
        for short, long in names.items():
            word = word.replace(short, long)
        words.append(word)
    if name in ("train", "sweep"):
        words.append(f"paths.data_dir={data_dir}")
    assert_undisturbed(condition, words)
    for log in tmp_path.rglob("train.log"):
        assert "epoch 1/1" in log.read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("script", ["src/train.py", "scripts/compare.py"])
def test_a_disk_that_is_full_is_no_success(script: str) -> None:
    command = f'"{sys.executable}" "{ROOT}/{script}" --help >/dev/full'
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: stdout: No space left on device\n")
    assert len(done.stderr.splitlines()) == 2


def test_a_file_of_a_run_never_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import os\n"
        "from lab.engine.cli.start import start\n"
        "start()\n"
        f"file = open({str(tmp_path / 'kept')!r}, 'w')\n"
        "os.write(1, b'printed by C code')\n"
        "os.system('echo by a child; echo and its errors >&2')\n"
        "file.write(str(file.fileno() > 2))\n"
    )
    shell = f'exec "{sys.executable}" "{probe}" <&- >&- 2>&-'
    subprocess.run(["bash", "-c", shell], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, check=True)
    assert (tmp_path / "kept").read_text() == "True"


@pytest.mark.parametrize("width", [80, 40])
def test_a_table_shows_whole_columns_and_the_answer_first(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    probabilities = {f"p_{i}": [0.123456, 1 / 3] for i in range(20)}
    table = polars.DataFrame({"index": [0, 1], **probabilities, "label": ["cat[1]", None]})
    show_table(table, "a run", ["label"])
    title, _, names, _, *rows, _, counted = capsys.readouterr().out.splitlines()
    assert title.strip() == "a run"
    assert names.split() == ["index", "label", *probabilities][: len(names.split())]
    assert 2 < len(names.split()) < 22
    assert [row.split()[1:3] for row in rows] == [["cat[1]", "0.1235"], ["0.3333", "0.3333"]]
    assert all(len(row) <= width for row in [names, *rows])
    assert "2 rows of 22 columns" in counted


def test_words_that_are_not_utf8_are_refused() -> None:
    answer = refusal("data=csv", "data.path=caf\udce9.csv")
    assert r"data.path=caf\xe9.csv" in answer
    assert "UTF-8" in answer


@pytest.mark.slow
def test_names_and_prompts_that_are_not_utf8(runs: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / os.fsdecode(b"caf\xe9.png")
    picture.parent.mkdir()
    with picture.open("wb") as file:
        Image.new("L", (28, 28)).save(file, format="png")
    asked = ["scripts/predict.py", f"run={runs['digits']}", f"in={picture}"]
    out = tmp_path / "out.csv"
    for more in ([], [f"out={out}"]):
        done = run("narrow", [*asked, *more])
        assert done.returncode == 0, done.stderr.decode()
    assert polars.read_csv(out)["file"].to_list() == [rf"{picture.parent}/caf\xe9.png"]
    done = run("narrow", ["scripts/predict.py", f"run={runs['text']}", "prompt=caf\udce9"])
    assert done.returncode == 2
    assert rb"prompt=caf\xe9" in done.stderr
    assert b"UTF-8" in done.stderr


@pytest.mark.parametrize("script", ["src/train.py", "scripts/compare.py"])
def test_ctrl_c_while_modules_load_says_nothing(script: str) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), "--help"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background ignores
    )  # fmt: skip
    status = Path(f"/proc/{process.pid}/status")
    caught = handled = False
    while process.poll() is None and not (caught and not handled):  # until the default action is in force again
        mask = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        handled = bool(int(mask.split()[1], 16) & 1 << (signal.SIGINT - 1))
        caught |= handled
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert said == (b"", b"")


@pytest.mark.slow
@pytest.mark.parametrize("typed", ["q\n", "\x03", ""], ids=["q", "Ctrl-C", "hangup"])
def test_a_terminal(typed: str, tmp_path: Path, data_dir: Path) -> None:
    """`q` at a breakpoint and Ctrl-C stop a run as a signal does; so does the terminal's end."""
    (tmp_path / "mine.py").write_text(
        "from lab.models.mlp import MLP\n"
        "class Mine(MLP):\n"
        "    def training_step(self, batch, batch_idx):\n"
        f"        if {typed == chr(113) + chr(10)} and self.global_step == 5: breakpoint()\n"
        "        return super().training_step(batch, batch_idx)\n"
    )
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import runpy, sys\n"
        "from lab.engine.config.instantiate import ALLOWED\n"
        "ALLOWED.append('mine')\n"
        f"sys.argv[0] = {str(ROOT / 'src' / 'train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    words = ["model=mlp", "model._target_=mine.Mine", *SMALL, "trainer.max_epochs=5000", "logger=none"]
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = f"{ROOT / 'src'}:{tmp_path}"
        os.execv(sys.executable, [sys.executable, str(probe), *words, *paths])
    shown, over = b"", time.monotonic() + 200
    while (b"(Pdb) " if typed == "q\n" else b"epoch 3/") not in shown:
        assert time.monotonic() < over, shown
        if select.select([terminal], [], [], 1)[0]:
            try:
                shown += os.read(terminal, 1 << 16)
            except OSError:
                pytest.fail(shown.decode())  # it has ended
    if not typed:
        os.close(terminal)
    else:
        time.sleep(1)  # the bar would be drawn anew
        os.write(terminal, typed.encode())
        try:
            while more := os.read(terminal, 1 << 16):
                shown += more
        except OSError:  # the process has left its terminal
            pass
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended == (129 if not typed else 130), shown[-2000:]
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (found["status"], found["signal"]) == ("preempted", "SIGINT" if typed else "SIGHUP")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert b"Traceback" not in shown
    if typed == "\x03":
        assert b"\nSIGINT: stopping after this step" in shown
    if typed == "q\n":
        assert b"epoch" not in shown.partition(b"(Pdb) ")[2]
        assert b"training_step" in shown
