"""Parses a command line of `src/train.py` into Hydra's flags and overrides."""

import re
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO

from lab.engine.compat.hydra import argument_parser
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest


def parse_flags(arguments: Sequence[str]) -> Namespace:
    """Parses a command line as Hydra does.

    Raises:
        UserError: for an unknown or misused flag, and for one that loads a pickle.
    """
    parser, printed = argument_parser(), StringIO()
    try:
        with redirect_stderr(printed):
            flags, unknown = parser.parse_known_args(list(arguments))
    except SystemExit as end:
        if not end.code:  # of --version
            raise
        raise UserError(printed.getvalue().rpartition("error: ")[2].strip()) from None  # argparse's own message
    if unknown and unknown[0].startswith("-"):
        known = re.findall(r"--?[\w-]+", parser.format_usage())
        raise UserError(f"{unknown[0]}: no such flag{nearest(unknown[0], known)}")
    if unknown:
        raise UserError(f"{unknown[0]} is separated from the other overrides by a flag: put the flags first")
    if flags.experimental_rerun is not None:
        raise UserError("--experimental-rerun would load a pickle: use scripts/reproduce_run.py")
    if sum([flags.run, flags.multirun, flags.shell_completion, flags.cfg is not None, flags.info is not None]) > 1:
        raise UserError("only one of --run, --multirun, --cfg, --info and --shell-completion can be given")
    if flags.resolve and flags.cfg is None and not flags.help:
        raise UserError("--resolve goes with --cfg or --help")
    return flags
