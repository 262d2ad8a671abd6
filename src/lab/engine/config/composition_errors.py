"""Turns errors that Hydra and OmegaConf raise while composing into UserErrors, by their types and attributes."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import create_functions
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError

from lab.engine.config.instantiate import locate
from lab.engine.config.overrides import command_word
from lab.engine.config.schema_cache import cached_schema, renew
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

E = TypeVar("E", bound=BaseException)


class UnknownKey(UserError):
    """Reports an override of a key that the config does not have.

    Args:
        key: dotted.
        known: the config's keys, with their values.
        shown_by: what shows every key.

    Attributes:
        is_argument: whether the class takes an argument of this name, which its config does not list.
    """

    def __init__(
        self, key: str, known: Mapping[str, Any], shown_by: str = "`python src/train.py --cfg job` shows"
    ) -> None:
        node, _, name = key.rpartition(".")
        target = str(known.get(f"{node}._target_"))
        takes = _arguments(target)
        message = f"no such key{nearest(key, [*known, *(f'{node}.{one}' for one in takes)])}\n{shown_by} every key"
        self.is_argument = name in takes
        if self.is_argument:
            file = f"the file in configs/{node.partition('.')[0]}"
            message = f"{target} takes it, and the config does not list it: add it to {file}, or write +{key}=…"
        super().__init__(f"{key}: {message}")
        self.key = key


def _arguments(target: str) -> Collection[str]:
    """Returns the names of the arguments of a class, which is imported if it was edited; none of one not allowed."""
    schema = cached_schema(target)
    with suppress(UserError, ImportError):
        schema = schema or renew({target: locate(target)})[target]
    return schema["properties"] if schema else ()


@contextmanager
def composition_errors(known_keys: Callable[[], Mapping[str, Any]] = dict) -> Iterator[None]:
    """Raises a UserError in place of Hydra's and OmegaConf's errors about overrides and config files.

    Args:
        known_keys: returns the keys and groups that an override may name.
    """
    try:
        yield
    except MissingConfigException as error:
        raise _missing_config(error) from error
    except OverrideParseException as error:
        raise UserError(_parse_error(error)) from error
    except MarkedYAMLError as error:
        raise UserError(f"a config file is no YAML: {error}") from error
    except RecursionError as error:
        raise UserError("a config file has a node that is part of itself, by an anchor (&) and an alias (*)") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.end].splitlines()[-1].decode(errors="backslashreplace")
        raise UserError(f"a config file is no UTF-8 text, at {line!r}: save it as UTF-8") from error
    except (HydraException, OmegaConfBaseException) as error:
        if user_error := behind(error, UserError):
            raise user_error from None
        cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
            raise UnknownKey(cause.full_key, known_keys()) from error
        key = cause.full_key if isinstance(cause, OmegaConfBaseException) else None
        quoted = re.findall(r"'([\w.]+)'", str(error)) if cause is None else []  # no attribute has the key
        near = nearest(quoted[0], known_keys()) if quoted else ""
        lines = [key or "", *(_summary(one) for one in (error, cause) if one is not None)]
        raise UserError(": ".join(dict.fromkeys(filter(None, lines))) + near) from error


def _summary(error: BaseException) -> str:
    """Returns the first line of an error, and the second where the first announces it."""
    first, _, rest = str(error).strip().partition("\n")
    return f"{first} {rest.partition(chr(10))[0]}" if first.endswith(":") else first


def behind(error: BaseException, kind: type[E]) -> E | None:
    """Returns the first error of a kind among another and its causes: OmegaConf wraps what a resolver raises."""
    return next((inner for inner in causes(error) if isinstance(inner, kind)), None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes, the root last."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


def _missing_config(error: MissingConfigException) -> UserError:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if error.options is None:
        return UserError(str(error).partition("\n")[0])
    if not group:
        return UserError(f"{choice}: no such config")
    return UserError(
        f"{group}={choice}: no such choice{nearest(choice, error.options)}\nchoices: {', '.join(error.options)}"
    )


def _parse_error(error: OverrideParseException) -> str:
    cause = error.__cause__
    if cause is None:
        key, equals, value = error.override.partition("=")
        is_text = equals and re.fullmatch(r"\+*[\w./@-]+", key) and not value.startswith(("[", "{", "'", '"'))
        advice = quoted_advice(key, value) if is_text else "write key=value (quote what the shell would take apart)"
        return f"{error.override!r} is no override: {advice}"
    functions = list(create_functions().definitions)
    unknown = [name for name in re.findall(r"(\w+)\(", error.override) if name not in functions]  # rnge(3)
    near = nearest(unknown[0], functions) if unknown else ""
    return f"{error.override}: {str(cause).partition(chr(10))[0]}{near}"


def quoted_advice(key: str, value: str) -> str:
    """Says how a text is written that Hydra would take apart: in quotes, and from the home directory in full."""
    return f"if that is one text, write {command_word(key, os.path.expanduser(value))}"


def check_config_name(name: str, directory: Path) -> None:
    """Refuses the name of a primary config that is not in `directory`."""
    if not (directory / f"{name.removesuffix('.yaml')}.yaml").is_file():
        known = sorted(path.stem for path in directory.glob("*.yaml"))
        raise UserError(
            f"--config-name {name}: no such config{nearest(name, known)}; {directory} has {', '.join(known) or 'none'}"
        )
