"""What a config must hold, checked before torch is imported, and errors told in a few lines."""

import ast
import ctypes
import os
import re
import secrets
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lab.catalog import classes
from lab.errors import RunFailed, UserError

ROOT = Path(__file__).resolve().parents[2]  # the checkout
CONFIGS = ROOT / "configs"

OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(4), use_cache=True, replace=True)

# What some fields of Trainer take besides the type of their default
ALSO: dict[str, tuple[Any, ...]] = {
    "trainer.deterministic": ("warn",),
    "trainer.fast_dev_run": (int,),
}
CHOICES = {
    "trainer.accelerator": ["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "trainer.precision": [
        "32-true",
        "bf16-mixed",
        "16-mixed",
        "bf16-true",
        "16-true",
        "64-true",
        "32",
        "16",
        "bf16",
        "64",
    ],
    "objective.mode": ["min", "max"],
}


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known word that `word` looks like, or nothing."""
    match = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Holds a composed config against the types of its defaults, what its targets take, what its data offers and what
    this machine has.

    Args:
        cfg: the whole config.
        overrides: from the command line; their values are held against the types of what they replace.

    Raises:
        UserError: on the first thing that is wrong.
    """
    _check_types(overrides)
    _check_choices(cfg)
    _check_dims(cfg)
    _check_missing(cfg)
    for group in ("data", "model"):
        _check_arguments(group, cfg[group])
    _check_devices(cfg.trainer)


class Check(Callback):
    """Checks before Hydra makes a directory, so that a wrong command line leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with explained():
            job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            check(job, config.hydra.overrides.task)


@contextmanager
def explained() -> Iterator[None]:
    """Turns errors that a user can mend into a few lines and an exit status: 2 for a command, 1 for a failed run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them
    try:
        yield
    except Exception as error:
        if not _can_be_mended(error):
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RunFailed) else 2)


def _can_be_mended(error: Exception) -> bool:
    """Whether a user can act on `error`; anything else is a fault of the program and shows its traceback."""
    if isinstance(error, UserError | RunFailed | HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):
        return error.filename is not None
    *_, last = traceback.walk_tb(error.__traceback__)
    ours = Path(last[0].f_code.co_filename).is_relative_to(ROOT / "src")
    lightnings = type(error).__name__ == "MisconfigurationException"
    return lightnings or (isinstance(error, ValueError) and ours)


def parse_arguments(words: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Splits a script's words into its own arguments, over their `defaults`, and overrides of the run's config."""
    arguments, overrides = dict(defaults), []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is no argument: write key=value, such as {next(iter(defaults))}=…")
        if name in defaults:
            arguments[name] = value
        else:
            overrides.append(word)
    return arguments, overrides


def merge_overrides(config: DictConfig, data: str, overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """A run's config with overrides: `data=NAME` takes the whole dataset from configs/data, the rest are single values.

    Returns:
        The new config and the name of its dataset, `data` where none is given.
    """
    chosen = [word for word in overrides if word.startswith("data=")]
    single = [word for word in overrides if not word.startswith("data=")]
    if chosen:
        data = chosen[-1].partition("=")[2]
        fresh = _compose([chosen[-1]])
        with open_dict(config):
            config.data, config.dims = fresh.data, fresh.dims
    OmegaConf.set_struct(config, True)
    for word in single:
        key, _, value = word.partition("=")
        known = [name for name, _ in _leaves(config)]
        if key not in known:
            raise UserError(f"{key}: no such key{nearest(key, known)}")
        value = OmegaConf.from_dotlist([f"value={value}"]).value
        if expected := _mismatch(key, OmegaConf.select(config, key), value):
            raise UserError(f"{word}: expected {expected}")
        OmegaConf.update(config, key, value)
    return config, data


@contextmanager
def rank_directory() -> Iterator[None]:
    """Keeps a process that torchrun or srun started beside rank 0 from making a run directory of its own.

    It writes nothing but what Hydra insists on, into a temporary one. The ranks that Lightning starts are given the
    directory of rank 0.
    """
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0:
        yield
        return
    with TemporaryDirectory() as elsewhere:
        sys.argv += ["hydra.output_subdir=null", f"hydra.run.dir={elsewhere}"]
        yield


def _explain(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: no such choice{nearest(choice, error.options)}\nchoices: {', '.join(error.options)}"
    if match := re.match(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        return f"{key}: no such key{nearest(key, _known_keys())}\n`python src/train.py --cfg job` shows every key"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is no override: write key=value (quote what the shell would take apart)"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return (
            f"{error.filename}: {error.strerror}\n"
            "runs are written under paths.log_dir, datasets under paths.data_dir: choose another"
        )
    return text


def _known_keys() -> list[str]:
    """Every key of the config that the valid choices on the command line make, and every group."""
    choices = [word for word in sys.argv[1:] if "=" in word and _options(word.split("=")[0])]
    for overrides in (choices, []):
        try:
            cfg = _compose(overrides)
        except HydraException:
            continue
        groups = [path.name for path in CONFIGS.iterdir() if path.is_dir()]
        return [*groups, *(key for key, _ in _leaves(cfg))]
    return []


def _compose(overrides: Sequence[str]) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        return compose("train", list(overrides))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(overrides))


def _options(group: str) -> list[str]:
    """The choices of a config group, none where `group` is no group."""
    return [path.stem for path in sorted((CONFIGS / group).glob("*.yaml"))]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below `node`, dotted, with its value; inner nodes too."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")


def _check_types(overrides: Sequence[str]) -> None:
    """A value must be of the type of the default that it replaces."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = [o for o in parsed if not _options(o.key_or_group) and not o.is_add() and not o.is_delete()]
    if not given:
        return
    defaults = _compose([o.input_line for o in parsed if _options(o.key_or_group) and o.input_line])
    for override in given:
        key, value = override.key_or_group, override.value()
        default = OmegaConf.select(defaults, key, throw_on_missing=False, throw_on_resolution_failure=False)
        expected = _mismatch(key, default, value)
        if expected:
            raise UserError(f"{key}={_plain(value)}: expected {expected}, like its default {_plain(default)}")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else str(value)


def _mismatch(key: str, default: Any, value: Any) -> str | None:
    """What `value` should have been, None where it fits."""
    if any(value == also or (isinstance(also, type) and isinstance(value, also)) for also in ALSO.get(key, ())):
        return None
    if default is None:
        return None
    if value is None:
        return None if key.startswith("trainer.") or OmegaConf.is_config(default) else "a value"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return None if number and isinstance(value, int) else "a whole number"
    if isinstance(default, float):
        return None if number else "a number"
    if isinstance(default, ListConfig):
        return None if isinstance(value, list) else "a list"
    if isinstance(default, DictConfig):
        return None if isinstance(value, dict) else "a mapping of keys to values"
    return "one value" if isinstance(value, dict) else None


def _check_choices(cfg: DictConfig) -> None:
    for key, choices in CHOICES.items():
        value = str(OmegaConf.select(cfg, key))
        if value not in choices:
            raise UserError(f"{key}={value}: no such choice{nearest(value, choices)}\nchoices: {', '.join(choices)}")


def _check_dims(cfg: DictConfig) -> None:
    """What the model reads of `dims` the data must offer."""
    raw = str(OmegaConf.to_container(cfg.model, resolve=False))
    needs = set(re.findall(r"\$\{dims\.(\w+)", raw))
    lacking = sorted(needs - set(cfg.dims))
    if lacking:
        fitting = [
            path.stem
            for path in sorted((CONFIGS / "data").glob("*.yaml"))
            if needs <= set(OmegaConf.select(OmegaConf.load(path), "dims") or ())
        ]
        raise UserError(
            f"{_short(cfg.model)} does not fit {_short(cfg.data)}: it needs dims.{', dims.'.join(lacking)},"
            f" and the data offers {', '.join(cfg.dims)}\ndata that fits: {', '.join(fitting) or 'none'}"
        )


def _short(node: DictConfig) -> str:
    return str(node.get("_target_")).rpartition(".")[2]


def _check_missing(cfg: DictConfig) -> None:
    missing = [key for key, value in _leaves(cfg) if value == "???"]
    if missing:
        raise UserError(f"{missing[0]} has no value: give one, {missing[0]}=…")


def _check_arguments(group: str, node: DictConfig) -> None:
    """Holds a node's keys and values against the arguments of its class and their `Literal`s: read, not imported."""
    package, _, name = str(node.get("_target_")).rpartition(".")
    if package not in ("lab.models", "lab.data"):
        return
    known = classes(str(ROOT / "src" / package.replace(".", "/")))
    if name not in known:
        raise UserError(f"{group}._target_={package}.{name}: no such class{nearest(name, known)}")
    arguments, required = _arguments(name, known)
    given = {str(key): node[key] for key in node if not str(key).startswith("_")}
    for key, value in given.items():
        if key not in arguments:
            raise UserError(f"{group}.{key}: {name} takes no such argument{nearest(key, arguments)}")
        choices = _literals(arguments[key])
        if choices and value not in choices:
            text = ", ".join(map(str, choices))
            raise UserError(
                f"{group}.{key}={value}: no such choice{nearest(str(value), map(str, choices))}\nchoices: {text}"
            )
    for key in required:
        if key not in given:
            raise UserError(f"{group}.{key} has no value, and {name} needs one: give {group}.{key}=…")


def _arguments(name: str, known: dict[str, tuple[Path, ast.ClassDef]]) -> tuple[dict[str, ast.expr | None], list[str]]:
    """What `__init__` takes, with annotations, and what it needs; its bases' too where it passes `**kwargs` on."""
    found: dict[str, ast.expr | None] = {}
    required: list[str] = []
    node = known[name][1]
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if init is not None:
        args = init.args.args[1:]
        found = {a.arg: a.annotation for a in args}
        required = [a.arg for a in args[: len(args) - len(init.args.defaults)]]
    if init is None or init.args.kwarg is not None:
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in known:
                inherited, needed = _arguments(base.id, known)
                passed = {k.arg for k in _super_keywords(init)} if init else set()
                found = {k: v for k, v in inherited.items() if k not in passed} | found
                required += [k for k in needed if k not in passed and k not in required]
    return found, required


def _super_keywords(init: ast.FunctionDef) -> list[ast.keyword]:
    """What `super().__init__(…)` is given by name."""
    for node in ast.walk(init):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            return node.keywords
    return []


def _literals(annotation: ast.expr | None) -> list[Any]:
    """The choices of a `Literal[…]`, none for any other annotation."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Literal":
        return []
    elements = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    return [element.value for element in elements if isinstance(element, ast.Constant)]


def _check_devices(trainer: DictConfig) -> None:
    """A GPU that is asked for must be there; NVIDIA's are counted through their driver, since torch takes seconds."""
    if trainer.accelerator not in ("gpu", "cuda"):
        return
    devices = trainer.devices
    wanted = devices if isinstance(devices, int) else max(devices) + 1 if isinstance(devices, ListConfig) else 1
    found = count_gpus()
    if found < wanted:
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}, devices={trainer.devices}: this machine has {found} GPUs\n"
            "use trainer=auto or trainer=cpu for one process, trainer=ddp_cpu for two processes without a GPU"
        )


def count_gpus() -> int:
    """GPUs that torch will see: NVIDIA's by their driver, narrowed by CUDA_VISIBLE_DEVICES; others are trusted."""
    if sys.platform == "darwin" or Path("/dev/kfd").exists():
        return 1
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        count.value
        if visible is None
        else min(count.value, len([v for v in visible.split(",") if v not in ("", "-1")]))
    )
