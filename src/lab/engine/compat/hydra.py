"""Private names of Hydra; loads no torch."""

from argparse import ArgumentParser

from hydra._internal.utils import get_args_parser

# What `hydra/launcher=basic` and `hydra/sweeper=basic` stand for: a config names the private modules that define them.
# The wish: names under `hydra.plugins`.
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def argument_parser() -> ArgumentParser:
    """Returns the parser of `hydra.main`'s flags, so that a command line is judged as Hydra reads it.

    The wish: `hydra.main` hands its parser out.
    """
    return get_args_parser()
