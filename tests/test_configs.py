"""Every config file composes, resolves and holds keys that are read; two choices go together, or are refused."""

from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import compose, leaves
from lab.engine.config.override_rules import is_read
from lab.engine.config.validate import validate
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from tests.conftest import OFFERS, SMALL_DATA, choices, draw_pictures, fits, save_pictures, with_dims

GROUPS = ["data", "model", "optimizer", "scheduler", "trainer", "callbacks", "logger"]
OVERLAYS = ["debug", "experiment"]  # which change keys of several groups


@pytest.fixture(autouse=True)
def _other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs for machines with GPUs and every extra are held against what those have."""
    monkeypatch.setattr(machine, "count_gpus", lambda: 2)
    monkeypatch.setattr(machine, "has_package", lambda name: True)


def overrides(chosen: dict[str, str], tmp_path: Path) -> list[str]:
    """Returns overrides that make the choices, beside a dataset and a model that fit them."""
    chosen = dict(chosen)
    if "experiment" not in chosen:
        data = [chosen["data"]] if "data" in chosen else ["digits", *with_dims("data")]
        models = [chosen["model"]] if "model" in chosen else ["lenet", *with_dims("model")]
        pairs = ((d, m) for d in data for m in models if d in with_dims("data") and fits(m, d))
        chosen["data"], chosen["model"] = next(pairs, (data[0], models[0]))
    given = [f"{group}={name}" for group, name in chosen.items()]
    if chosen.get("data", "digits") not in with_dims("data"):  # such data goes with models that read no dims: none here
        given.append("++dims={image_shape:[1,28,28],pixel_mean_std:[0.1,0.3],classes:10}")
    if chosen.get("data") == "huggingface":
        given += [word.replace("${paths.data_dir}", str(tmp_path)) for word in SMALL_DATA["huggingface"]]
        if not (tmp_path / "saved_pictures").exists():
            save_pictures(tmp_path / "saved_pictures")
    if chosen.get("data") == "tokens":
        np.save(tmp_path / "tokens.npy", np.zeros(9, np.uint8))
        (tmp_path / "tokens.json").write_text('{"vocab_size": 300}')
        given += [f"data.path={tmp_path}/tokens.npy"]
    if chosen.get("data") == "csv":
        regression = fits(chosen["model"], "linear")
        rows = [f"{i},{i * i % 7},{'xy'[i % 2]}" for i in range(60)]
        (tmp_path / "table.csv").write_text("\n".join(["a,b,kind", *rows, ""]))
        given += [f"data.path={tmp_path}/table.csv", f"data.target={'b' if regression else 'kind'}"]
        given += ["data.task=regression"] * regression
    if chosen.get("data") == "image_folder":
        draw_pictures(tmp_path / "pictures", 30)
        given.append(f"data.path={tmp_path}/pictures")
    if chosen.get("experiment") == "mnist_from_digits":
        (tmp_path / "digits" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "digits" / "checkpoints" / "best.ckpt").touch()
    return [*given, f"paths.run_dir={tmp_path}/run", f"paths.log_dir={tmp_path}"]


def unread(cfg: DictConfig) -> list[str]:
    """Returns the keys that neither a class, a function nor an interpolation takes."""
    return [key for key, _ in leaves(cfg) if not is_read(key, cfg)]


def check(cfg: DictConfig) -> None:
    validate(cfg)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert not unread(cfg)


@pytest.mark.parametrize("group", [*GROUPS, *OVERLAYS])
def test_each_choice_is_sound(group: str, tmp_path: Path) -> None:
    for name in choices(group):
        given = {"optimizer": "sgd"} if (group, name) == ("scheduler", "onecycle") else {}
        given |= {"scheduler": "none"} if (group, name) == ("optimizer", "lbfgs") else {}
        check(compose(overrides({group: name} | given, tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in combinations([*GROUPS, *OVERLAYS], 2) if pair != ("data", "experiment")]
)
def test_two_choices_go_together_or_are_refused(first: str, second: str, tmp_path: Path) -> None:
    """A `UserError` is an answer; any other exception, and a key that is not read, is a fault."""
    met = 0
    for a in choices(first):
        for b in choices(second):
            with suppress(UserError):
                check(compose(overrides({first: a, second: b}, tmp_path)))
                assert {first, second} != {"data", "model"} or a in OFFERS or a not in with_dims("data") or fits(b, a)
                met += 1
    assert met


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("++unread=1", "unread"),
        ("++optimizer.momentun=0.9", "momentun"),
        ("++scheduler.monitr=val/loss", "scheduler.monitr"),
        ("++trainer.acelerator=cpu", "trainer.acelerator"),
        ("++paths.nowhere='${paths.no_dir}'", "paths.no_dir"),
    ],
)
def test_the_check_finds_a_fault(override: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, AssertionError)) as raised:
        check(compose([*overrides({}, tmp_path), override]))
    assert fault in str(raised.value)
