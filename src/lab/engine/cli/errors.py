"""Errors told in a few lines, and what surrounds the entry point."""

import errno
import os
import pickle
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from lab.engine.config.compose import compose, leaves, options
from lab.engine.config.security import refuse_pickles
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.paths import CONFIGS, ROOT
from lab.engine.utils.redaction import redact

NO_CHOICE = "Config group override must be a string or a list"  # how Hydra's own ValueError begins


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns errors that a user can mend into a few lines and an exit status: 2 for a command, 1 for a failed run.

    Any other error shows its traceback, and ends with 1. No secret of the environment is in either, nor in a warning.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them
    plain = warnings.showwarning
    warnings.showwarning = show_warning
    try:
        refuse_pickles(sys.argv[1:])
        yield
    except Exception as error:
        if not is_user_error(error):
            sys.stderr.write(redact(traceback.format_exc()))
            sys.exit(1)
        print(f"error: {redact(_explain(error))}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RunFailed) else 2)
    except KeyboardInterrupt:  # before a run listens to signals by itself
        sys.exit(128 + signal.SIGINT)
    finally:
        warnings.showwarning = plain


def script(main: Callable[[list[str]], int | None], usage: str | None) -> None:
    """Runs a script's `main` on the words of the command line, and ends with its status; --help prints the usage."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage)
        return
    with user_errors():
        sys.exit(main(sys.argv[1:]))


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stands in for `warnings.showwarning`: no secret of the environment is shown."""
    text = redact(warnings.formatwarning(message, category, filename, lineno, line))
    (file or sys.stderr).write(text)


def is_user_error(error: Exception) -> bool:
    """Whether a user can act on `error`; anything else is a fault of the program and shows its traceback."""
    if isinstance(error, UserError | RunFailed | HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    if holds_code(error) or (isinstance(error, ValueError) and str(error).startswith(NO_CHOICE)):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]  # none, where it comes from a worker
    ours = bool(frames) and Path(frames[-1].f_code.co_filename).is_relative_to(ROOT / "src")
    lightnings = type(error).__name__ == "MisconfigurationException"
    return lightnings or (isinstance(error, ValueError) and ours)


def holds_code(error: BaseException) -> bool:
    """Whether torch or Lightning refused a file because it holds more than tensors and plain values."""
    by_torch = isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error)
    return by_torch or (isinstance(error, ValueError) and "to prevent arbitrary code execution" in str(error))


def _explain(error: Exception) -> str:
    text = str(error).strip()
    if holds_code(error):
        return f"{_loaded_file(error)} holds code; not loaded"
    if isinstance(error, InterpolationResolutionError):  # OmegaConf wraps what a resolver raises, twice or more
        raised: BaseException | None = error
        while raised is not None and not isinstance(raised, UserError):
            raised = raised.__cause__ or raised.__context__
        text = str(raised or error).strip()
    if isinstance(error, MissingConfigException) and text.startswith("Cannot find primary config"):
        known = [path.stem for path in CONFIGS.glob("*.yaml")]
        name = error.missing_cfg_file or ""
        return f"--config-name {name}: no such config{nearest(name, known)}; configs/ has {', '.join(known)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: no such choice{nearest(choice, error.options)}\nchoices: {', '.join(error.options)}"
    if text.startswith(NO_CHOICE):
        named = [w for w in sys.argv[1:] if options(w.partition("=")[0]) and re.search(r"=(null|[\d.]+)$", w)]
        return f"{' '.join(named) or 'an override'}: expected the name of a choice; `--help` lists those of each group"
    if match := re.match(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        if key in _known_keys():
            return f"{key}: it has none of the keys that it is given\n`python src/train.py --cfg job` shows every key"
        return f"{key}: no such key{nearest(key, _known_keys())}\n`python src/train.py --cfg job` shows every key"
    if isinstance(error, OverrideParseException):
        if said := re.search(r"while evaluating '.*': (.+)", text):  # a function: choice(), interval(1), rnge(3)
            unknown = re.search(r"Unknown function '(.+)'\nAvailable: (.+)", text)
            near = nearest(unknown[1], unknown[2].split(",")) if unknown else ""
            return f"{error.override}: {said[1]}{near}"
        return f"{error.override!r} is no override: write key=value (quote what the shell would take apart)"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return (
            f"{error.filename or 'writing'}: {error.strerror}\n"
            "runs are written under paths.log_dir, datasets under paths.data_dir: choose another"
        )
    return text


def _loaded_file(error: BaseException) -> str:
    """The path that `torch.load` was given: its own message does not say."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "load" and Path(frame.f_code.co_filename).name == "serialization.py":
            file = frame.f_locals.get("f")
            return str(getattr(file, "name", None) or getattr(file, "path", None) or file)
    return "the file"


def _known_keys() -> list[str]:
    """Every key of the config that the valid choices on the command line make, and every group."""
    choices = [word for word in sys.argv[1:] if "=" in word and options(word.split("=")[0])]
    for overrides in (choices, []):
        try:
            cfg = compose(overrides, hydra=True)
        except (HydraException, UserError):
            continue
        groups = [path.name for path in CONFIGS.iterdir() if path.is_dir()]
        return [*groups, *(key for key, _ in leaves(cfg))]
    return []


def check_flags(words: Sequence[str]) -> None:
    """Refuses Hydra's flags (`--cfg`, `-m`, …) where they are written wrong: its own answer is all of its usage.

    Raises:
        UserError: with the nearest flag.
    """
    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise UserError(message.replace("invalid choice", "no such choice"))
        word = unknown.split()[0]
        if word.startswith("-"):
            raise UserError(f"{word}: no such flag{nearest(word, flags)}")
        raise UserError(f"{word} stands after a flag that parts it from the other overrides: put the flags first")

    parser.error = refuse  # type: ignore[method-assign]
    if parser.parse_args(list(words)).experimental_rerun:
        raise UserError("--experimental-rerun would load a pickle: scripts/reproduce_run.py runs a run again")
