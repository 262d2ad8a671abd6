"""Holds the private names of Hydra that we use; loads no torch."""

from argparse import ArgumentParser

from hydra._internal.utils import get_args_parser

# The `_target_` of `hydra/launcher=basic` and `hydra/sweeper=basic`. Public wish: names under `hydra.plugins`
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def argument_parser() -> ArgumentParser:
    """Returns the parser of `hydra.main`'s flags, so that we parse a command line as Hydra does.

    Public wish: `hydra.main` exposes its parser.
    """
    return get_args_parser()
