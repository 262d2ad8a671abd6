"""The environment's secrets reach no file of a run and no line on the screen."""

import http.server
import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from omegaconf import OmegaConf

from lab.engine.cli.errors import user_errors
from lab.engine.config.compose import compose
from lab.engine.utils.console import Console, Redact, mask_handlers
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT
from lab.engine.utils.redaction import COMMAND_LINE, redact, secrets
from tests.conftest import accepted, refusal

TOKEN = "fake-7f3a9c41e0d2"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.engine.utils.redaction._interpolated", {})
    monkeypatch.setenv("LAB_FAKE_TOKEN", TOKEN)


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "AZURE_CREDENTIALS",
        "MY_PRIVATE_KEY_2",
        "DB_PASSWD",
        "github_token",
        "OPENAI_KEY",
        "SENTRY_DSN",
    ],
)
def test_a_variable_that_is_called_a_secret_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "some value of it")
    assert redact("a some value of it b") == "a *** b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false-or-so"),
        ("NUM_TOKENS", "1000000"),
        ("MY_TOKEN", "short"),
        ("GOOGLE_APPLICATION_CREDENTIALS", __file__),
        ("SSH_AUTH_SOCK", str(ROOT)),
        ("MONKEY", "anything at all"),
        ("KEYBOARD", "qwertzuiop"),
    ],
)
def test_what_gives_nothing_away_is_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert name not in secrets()
    assert redact(f"a {value} b") == f"a {value} b"


def test_what_a_config_reads_is_a_secret_but_for_what_is_known_to_be_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOST", "wiretap.example")
    monkeypatch.setenv("USER", "ada-lovelace")
    monkeypatch.setenv("LAB_NAME", "LAB_HOST")
    monkeypatch.setenv(COMMAND_LINE, json.dumps(["a=${oc.env:LAB_HOST}", "c=${oc.env:LAB_NAME}"]))
    config = OmegaConf.create(
        {
            "a": "http://${oc.env:LAB_HOST}/",
            "b": "${oc.env:USER}",
            "c": "${oc.env:LAB_NONE,6}",
            "d": "${oc.env:LAB_NULL,null}",
        }
    )
    assert redact("wiretap.example") == "wiretap.example"
    assert OmegaConf.to_container(config, resolve=True) == {
        "a": "http://wiretap.example/",
        "b": "ada-lovelace",
        "c": "6",
        "d": None,
    }
    assert redact("ada-lovelace at wiretap.example") == "ada-lovelace at ***"
    monkeypatch.delenv("LAB_HOST")
    assert redact("wiretap.example") == "***", "what was read once stays a secret"
    with pytest.raises(Exception, match="Environment variable 'LAB_HOST' not found"):
        _ = config.a


def test_nested_values_and_other_ways_of_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = 'pa/ss "w\\ord"'
    monkeypatch.setenv("LAB_PASSWORD", odd)
    monkeypatch.setenv("LAB_PRIVATE_KEY", "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n-----END KEY-----")
    value: dict[str, Any] = {TOKEN: [1, None, f"x{TOKEN}", (Path(f"/a/{TOKEN}/b"), {odd})], "n": 2.5, "b": True}
    assert redact(value) == {"***": [1, None, "x***", (Path("/a/***/b"), {"***"})], "n": 2.5, "b": True}
    assert value["n"] == 2.5
    assert TOKEN in value, "the value itself stays as it is"
    for text in (json.dumps(odd), repr(odd), "https://x/pa%2Fss%20%22w%5Cord%22", "line MIIEvQIBADANBgkqhkiG line"):
        assert "***" in redact(text), text
        assert "ss" not in redact(text).replace("https", ""), text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:pass@host/a", "https://***@host/a"),
        ("see http://ghp_abcdef@host:80/a@b, or", "see http://***@host:80/a@b, or"),
        ("postgresql+psycopg://u:p@ss@host", "postgresql+psycopg://***@host"),
        ("https://host/a?mail=b@c", "https://host/a?mail=b@c"),
        ("git@host:a/b", "git@host:a/b"),
        ("(https://a:b@host)", "(https://***@host)"),
    ],
)
def test_accounts_in_addresses(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.timeout(30)
def test_a_long_word_takes_no_time() -> None:
    word = "x" * 1_000_000
    assert redact(f"{word} https://{word}@host") == f"{word} https://***@host"


def test_log_lines_and_their_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("test")
    stream = io.StringIO()
    file = logging.StreamHandler(stream)
    file.addFilter(Redact())
    plain = io.StringIO()  # of a handler that is not ours
    for handler in (Console(), file, logging.StreamHandler(plain)):
        logger.addHandler(handler)
    mask_handlers(logger)
    logger.info("got %s and %d", TOKEN, 3)
    logger.info("as %(token)s", {"token": TOKEN})
    try:
        raise RuntimeError(f"401 for {TOKEN}")
    except RuntimeError:
        logger.exception("failed", stack_info=True)
    for shown in (capsys.readouterr().out, stream.getvalue(), plain.getvalue()):
        assert TOKEN not in shown
        assert "got *** and 3\nas ***\nfailed\nTraceback" in shown
        assert "RuntimeError: 401 for ***" in shown


def test_errors_and_warnings_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for error, status in ((UserError(f"a {TOKEN}"), 2), (RuntimeError(f"b {TOKEN}"), 1), (KeyError(TOKEN), 1)):
        with pytest.raises(SystemExit) as ended, user_errors():
            raise error
        assert ended.value.code == status
        shown = capsys.readouterr().err
        assert "***" in shown
        assert TOKEN not in shown
        assert ("Traceback" in shown) == (status == 1)
    with warnings.catch_warnings(), user_errors():
        warnings.simplefilter("always")
        warnings.warn(f"mind {TOKEN}", UserWarning, stacklevel=1)
    assert "UserWarning: mind ***" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"data.mirrors=[https://x/{TOKEN}]", r"data.mirrors: this would save LAB_FAKE_TOKEN's value"),
        ("data.mirrors=['https://ada:lovelace@x/']", "data.mirrors: this would save a password"),
        ("hydra.job.env_copy=[LAB_FAKE_TOKEN]", "hydra.job.env_copy: this would save LAB_FAKE_TOKEN's value"),
    ],
)
def test_what_hydra_would_save_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compose(["data=mnist", override])
    assert TOKEN not in str(caught.value)
    assert "lovelace" not in str(caught.value)


def test_the_name_of_a_variable_may_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    mirrors = "['https://${oc.env:USER}:${oc.env:LAB_FAKE_TOKEN}@x:80/', 'http://x:80/a@b']"
    typed = ["data=mnist", f"data.mirrors={mirrors}"]
    monkeypatch.setenv(COMMAND_LINE, json.dumps(typed))
    compose(typed)


def train(tmp_path: Path, *overrides: str) -> "subprocess.CompletedProcess[bytes]":
    """A run with the token in the environment, without a network, all its files below `tmp_path`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "LAB_FAKE_TOKEN": TOKEN}
    environment.pop("MNIST_MIRROR", None)
    return subprocess.run(
        [sys.executable, str(ROOT / "src" / "train.py"), f"paths.log_dir={tmp_path}/logs", "trainer=cpu", *overrides],
        capture_output=True, timeout=200, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip


def assert_nowhere(done: "subprocess.CompletedProcess[bytes]", folder: Path) -> set[str]:
    """No file below `folder` holds the token, archives unpacked; the suffixes of what was looked into."""
    assert TOKEN.encode() not in done.stdout + done.stderr
    looked_into = set()
    for path in folder.rglob("*"):
        assert TOKEN not in str(path)
        if not path.is_file():
            continue
        looked_into.add(path.suffix)
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for content in contents:
            assert TOKEN.encode() not in content, path
    return looked_into


@pytest.fixture
def mirror() -> Iterator[str]:
    """MNIST's files on a server that wants to see the token, and that is not well at first."""

    class Strict(http.server.SimpleHTTPRequestHandler):
        well = False

        def do_GET(self) -> None:
            if not Strict.well or not self.path.startswith(f"/{TOKEN}/"):
                Strict.well = True
                self.send_error(503)
                return
            self.path = self.path.removeprefix(f"/{TOKEN}")
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = partial(Strict, directory=url2pathname(urlsplit(os.environ["MNIST_MIRROR"]).path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/${{oc.env:LAB_FAKE_TOKEN}}/"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("MNIST_MIRROR", "").startswith("file://"),
    reason="set MNIST_MIRROR to a folder with MNIST's four .gz files, as file://…",
)
def test_a_run_that_succeeds_keeps_the_secret(mirror: str, tmp_path: Path) -> None:
    done = train(
        tmp_path, "data=mnist", f"paths.data_dir={tmp_path}/data", f"data.mirrors=['{mirror}']", "trainer.max_epochs=1",
        "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
        "+logger.tensorboard.comment='${oc.env:LAB_FAKE_TOKEN}'",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"/***/train-images-idx3-ubyte.gz: 503" in done.stdout, "the address is logged, without the token"
    suffixes = assert_nowhere(done, tmp_path)
    assert {".ckpt", ".json", ".yaml", ".log", ".0"} <= suffixes
    [config] = (tmp_path / "logs" / "runs").glob("*/*/.hydra/config.yaml")
    assert "${oc.env:LAB_FAKE_TOKEN}" in config.read_text(), "what is saved is the variable's name"


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["data=mnist", "data.mirrors=['http://ada:${oc.env:LAB_FAKE_TOKEN}@127.0.0.1:9/']"],  # a failed run
        ["model=resnet", "model.weights='/nowhere/${oc.env:LAB_FAKE_TOKEN}.pt'"],  # a model's argument, refused
        ["trainer.strategy='${oc.env:LAB_FAKE_TOKEN}'"],  # what Lightning does not know, and repeats
    ],
)
def test_a_run_that_fails_keeps_the_secret(overrides: list[str], tmp_path: Path) -> None:
    done = train(tmp_path, f"paths.data_dir={tmp_path}/data", *overrides)
    assert done.returncode in (1, 2)
    assert b"***" in done.stderr or b"${oc.env:LAB_FAKE_TOKEN}" in done.stderr, "masked, or named as it was typed"
    assert_nowhere(done, tmp_path)
    for record in (tmp_path / "logs").glob("runs/*/*/run.json"):  # none where the command was refused
        assert json.loads(record.read_text())["status"] == "failed"
        assert "***" in json.loads(record.read_text())["error"]


@pytest.mark.parametrize("where", ["//ada:{}@127.0.0.1/", "//{}@127.0.0.1/", "//127.0.0.1/?token={}"])
def test_an_address_may_name_the_variable_of_its_secret(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_FAKE_TOKEN", "abc123secret")
    words = ["data=mnist", f"data.mirrors=['http:{where.format('${oc.env:LAB_FAKE_TOKEN}')}']"]
    monkeypatch.setenv(COMMAND_LINE, json.dumps(words))
    accepted(*words)
    assert "password or token" in refusal("data=mnist", f"data.mirrors=['http:{where.format('abc987')}']")
