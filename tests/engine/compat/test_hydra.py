"""What is private in Hydra is where it was."""

from importlib import import_module

import pytest
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from lab.engine.compat.hydra import BASIC_LAUNCHER, BASIC_SWEEPER, argument_parser
from lab.engine.config.compose import compose


def test_the_parser_knows_what_is_judged() -> None:
    flags = argument_parser().parse_args(["--config-dir", "x", "-m", "a=1", "b=2"])
    assert (flags.config_dir, flags.multirun, flags.overrides) == ("x", True, ["a=1", "b=2"])
    judged = {"run", "cfg", "info", "shell_completion", "config_path", "config_name", "resolve", "help", "hydra_help"}
    assert judged | {"experimental_rerun"} <= set(vars(flags))


@pytest.mark.parametrize(("name", "base"), [(BASIC_LAUNCHER, Launcher), (BASIC_SWEEPER, Sweeper)])
def test_hydra_s_own_launcher_and_sweeper_bear_these_names(name: str, base: type) -> None:
    module, _, attribute = name.rpartition(".")
    assert issubclass(getattr(import_module(module), attribute), base)
    config = compose(["hydra/launcher=basic", "hydra/sweeper=basic"], hydra=True, name=None).hydra
    assert name in (config.launcher._target_, config.sweeper._target_)
