"""Composes the config groups with each other and holds every key against what reads it: python scripts/check_configs.py

Every choice of a group meets every choice of each other group in some composition, and every experiment every trainer,
logger, callback set and debugging run. What does not go together must be refused in words. Everything else must
resolve, miss nothing, and hold no key that its target does not take or that nobody reads. Exits with 1 where something
is wrong.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config.compose import leaves
from lab.engine.config.rules import RULES
from lab.engine.config.validate import check_dims, check_interpolations, check_nodes, nodes, plain_nodes, validate
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS, ROOT

CROSSED = ["data", "model", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug"]
WITH_EXPERIMENTS = ["experiment", "trainer", "callbacks", "logger", "debug"]
LIGHTNINGS = {f"scheduler.{key}" for key in ("scheduler", "interval", "frequency", "monitor", "strict", "name")}

Choice = tuple[str, str]  # group and name
Pair = frozenset[Choice]


class Checker:
    """Composes from one folder of configs and collects what is wrong.

    Args:
        configs: the folder.
        scratch: an empty one, which holds a table for data=csv.
    """

    def __init__(self, configs: Path, scratch: Path) -> None:
        self.configs = configs
        self.scratch = scratch
        self.faults: dict[str, None] = {}  # in their order, each once
        self.refused: dict[Pair, str] = {}
        self.covered: set[Pair] = set()
        self.compositions = 0
        self.nodes: set[tuple[str, ...]] = set()  # seen already
        self.read = re.compile("|".join(self._readers()))
        (scratch / "table.csv").write_text(
            "a,b,kind\n" + "".join(f"{i},{i * i % 7},{'xy'[i % 2]}\n" for i in range(60))
        )

    def choices(self, group: str) -> list[Choice]:
        """All of a group; `null` where none need be chosen."""
        names = [path.stem for path in sorted((self.configs / group).glob("*.yaml"))]
        return [(group, name) for name in [*(["null"] if group in ("debug", "experiment") else []), *names]]

    def cross(self, groups: list[str]) -> None:
        """Composes until every pair of choices of different groups has been met, or refused."""
        every = {group: self.choices(group) for group in groups}
        left = {frozenset(pair) for a, b in combinations(groups, 2) for pair in _product(every[a], every[b])}
        for pair in sorted(left, key=sorted):
            if {group for group, _ in pair} == {"data", "model"} and not self._fits(pair):
                self._refuse(pair, self.try_(pair))
        while left := left - self.covered - set(self.refused):
            chosen = self._fill(min(left, key=sorted), every, left)
            answer = self.try_(chosen)
            if answer is None:
                self.covered |= set(_pairs(chosen))
            else:
                self._refuse(self._culprits(chosen, every), answer)

    def try_(self, chosen: Iterable[Choice]) -> str | None:
        """Composes and checks; the refusal, where it is refused in words."""
        words = [f"{group}={name}" for group, name in sorted(chosen) if name != "null"]
        self.compositions += 1
        refusal = ""
        try:
            cfg = compose("train", [*words, *self._needed(dict(chosen))])
            validate(cfg)
        except UserError as error:
            refusal = str(error)
        except (HydraException, OmegaConfBaseException) as error:
            self._fault(" ".join(words), f"{type(error).__name__}: {error}")
            return None
        except Exception as error:  # a check that breaks is a fault too
            self._fault(" ".join(words), f"the check itself fails: {type(error).__name__}: {error}")
            return None
        if refusal:
            faults = list(self._faults_of_files(cfg))
            for fault in faults:
                self._fault(" ".join(words), fault.splitlines()[0])
            if refusal not in faults:
                return refusal
            try:  # whether the rest goes together
                check_dims(cfg)
                for rule in RULES:
                    rule(cfg)
            except UserError as error:
                return str(error)
        with suppress(UserError):
            self._look(" ".join(words), cfg)
        return None

    def _faults_of_files(self, cfg: DictConfig) -> Iterator[str]:
        """What is wrong with whatever it is composed: arguments that a class does not take, a lost key."""
        for found in [*plain_nodes(cfg), *nodes(cfg, literal=True)]:
            try:
                check_nodes([found])
            except UserError as error:
                yield str(error)
        try:
            check_interpolations(cfg)
        except UserError as error:
            yield str(error)

    def _look(self, words: str, cfg: DictConfig) -> None:
        """What `check` leaves to this script, since it takes time."""
        try:
            OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            self._fault(words, str(error).splitlines()[0])
        inside = []
        for key, node in nodes(cfg):
            inside.append(key)
            self.nodes.add((key, str(node["_target_"]), *sorted(node), str(node.get("_partial_"))))
        for key, value in leaves(cfg):
            built = any(key == node or key.startswith(f"{node}.") for node in inside)
            if not (built or isinstance(value, dict) or key in LIGHTNINGS or self.read.fullmatch(key)):
                self._fault(words, f"{key}: nobody reads this key")

    def _readers(self) -> Iterator[str]:
        """Every key that a source names as `cfg.KEY`, or a config as `${KEY}`, as patterns."""
        for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
            for key in re.findall(r"\b(?:cfg|config|configuration|job|composed)\.([a-z_.]+)", path.read_text()):
                yield re.escape(key)
        yield r"(callbacks|logger)\.\w+"  # of any name; null leaves one out
        for path in {*self.configs.rglob("*.yaml"), *CONFIGS.rglob("*.yaml")}:  # by a choice that this folder may lack
            for key in re.findall(r"\$\{(?:\w+:)?([\w.]+)", path.read_text()):
                name = f"{path.parent.name}{key}" if key.startswith(".") else key
                yield rf"{re.escape(name)}(\..*)?"

    def _fits(self, pair: Pair) -> bool:
        """Whether the dataset's file offers what the model's asks for."""
        chosen = dict(pair)
        text = (self.configs / "model" / f"{chosen['model']}.yaml").read_text()
        dims = yaml.safe_load((self.configs / "data" / f"{chosen['data']}.yaml").read_text()).get("dims")
        # A table has features, and classes or targets: which, `_needed` says
        offers = set(dims) if isinstance(dims, dict) else {"features", "classes", "targets"}
        return set(re.findall(r"\$\{dims\.(\w+)", text)) <= offers

    def _needed(self, chosen: dict[str, str]) -> list[str]:
        """What has no default, and places."""
        words = [f"paths.run_dir={self.scratch}/run", f"paths.log_dir={self.scratch}"]
        if chosen.get("data") == "csv":
            model = self.configs / "model" / f"{chosen.get('model', 'lenet')}.yaml"
            regression = model.is_file() and "dims.targets" in model.read_text()
            words += [f"data.path={self.scratch}/table.csv", f"data.target={'b' if regression else 'kind'}"]
            words += ["data.task=regression"] * regression
        return words

    def _fill(self, pair: Pair, every: dict[str, list[Choice]], left: set[Pair]) -> list[Choice]:
        """A choice from each group around `pair`, such that many pairs that are left meet."""
        chosen = list(pair)
        for group in every:
            if group in dict(chosen):
                continue
            possible = [c for c in every[group] if not any(self._known_refusal(c, other) for other in chosen)]
            gain = {c: sum(frozenset((c, other)) in left for other in chosen) for c in possible}
            chosen.append(max(gain, key=lambda c: gain[c]))
        return chosen

    def _known_refusal(self, a: Choice, b: Choice) -> bool:
        return frozenset((a, b)) in self.refused

    def _culprits(self, chosen: list[Choice], every: dict[str, list[Choice]]) -> Pair:
        """Those of `chosen` without which the rest is not refused."""
        guilty = []
        for choice in chosen:
            rest = [other for other in chosen if other != choice]
            others = [c for c in every[choice[0]] if c != choice and not any(self._known_refusal(c, o) for o in rest)]
            if any(self.try_([*rest, other]) is None for other in others[:3]):
                guilty.append(choice)
        return frozenset(guilty)

    def _refuse(self, pair: Pair, answer: str | None) -> None:
        if answer is None:
            self.covered.add(pair)
        elif len(pair) == 2:
            self.refused[pair] = answer.splitlines()[0]
        else:
            words = " ".join(f"{group}={name}" for group, name in sorted(pair))
            self._fault(words, f"refused, and not for a pair of choices: {answer.splitlines()[0]}")
            raise UserError("\n".join(self.faults))  # it would be met again and again

    def _fault(self, words: str, said: str) -> None:
        if not any(fault.endswith(said) for fault in self.faults):  # once, whatever it was composed with
            self.faults[f"{words}: {said}"] = None


def _product(first: list[Choice], second: list[Choice]) -> list[tuple[Choice, Choice]]:
    return [(a, b) for a in first for b in second]


def _pairs(chosen: Iterable[Choice]) -> Iterator[Pair]:
    return map(frozenset, combinations(chosen, 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="another folder of configs")
    parser.add_argument("--verbose", action="store_true", help="print what was refused, and why")
    args = parser.parse_args()
    start = time.perf_counter()
    with (
        machine.pretended(gpus=2),
        tempfile.TemporaryDirectory() as scratch,
        initialize_config_dir(str(args.configs.resolve()), version_base="1.3"),
    ):
        checker = Checker(args.configs, Path(scratch))
        try:
            checker.cross(CROSSED)
            checker.cross(WITH_EXPERIMENTS)
        except UserError:
            pass  # noted as a fault
        for _, name in checker.choices("sweep"):
            space = compose("train", [f"sweep={name}"], return_hydra_config=True).hydra.sweeper.params
            models = [name for _, name in checker.choices("model")]  # a key may be of one of them only
            known = {key for model in models for key, _ in leaves(compose("train", [f"model={model}"]))}
            checker.faults |= {f"sweep={name}: {key}: no such key": None for key in space if key not in known}
    for fault in checker.faults:
        print(f"fault: {fault}")
    if args.verbose:
        for pair, answer in checker.refused.items():
            print(f"refused: {' '.join(f'{group}={name}' for group, name in sorted(pair))}: {answer}")
    pairs = len(checker.covered) + len(checker.refused)
    print(
        f"{pairs} pairs of choices, {len(checker.refused)} of them refused in words, in"
        f" {checker.compositions} compositions; {len(checker.nodes)} nodes held against signatures;"
        f" {len(checker.faults)} faults; {time.perf_counter() - start:.0f} s"
    )
    return 1 if checker.faults else 0


if __name__ == "__main__":
    sys.exit(main())
