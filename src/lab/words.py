"""Words of the command line, looked at before Hydra does."""

from collections.abc import Iterable, Sequence

from omegaconf import ListConfig

from lab.compose import ROOT


def typed(words: Iterable[str]) -> list[str]:
    """Words that a config holds, as they were typed: what `${oc.env:NAME}` stands for is not among them."""
    return [str(word) for word in (words._iter_ex(resolve=False) if isinstance(words, ListConfig) else words)]


def value(word: str) -> str:
    """What stands behind the `=` of a word, without quotes."""
    return word.partition("=")[2].strip("'\"")


def key(word: str) -> str:
    """What a word is about: what stands before its `=`, without `+` and `~`."""
    return word.lstrip("+~").partition("=")[0]


def log_dir(words: Sequence[str]) -> str:
    """Where the runs of a command line are."""
    given = [value(word) for word in words if word.startswith("paths.log_dir=")]
    return given[-1] if given else str(ROOT / "logs")
