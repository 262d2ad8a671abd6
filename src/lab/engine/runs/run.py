"""Reads a run directory: config, metrics, checkpoints, and the model and data they rebuild."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lab.engine.checkpointing.files import find_fault, read_checkpoint
from lab.engine.config.compose import find_log_dir, get
from lab.engine.config.overrides import raw_overrides
from lab.engine.utils.errors import UserError
from lab.engine.utils.escape import printable
from lab.engine.utils.files import (
    NUMBER,
    atomic_write,
    check_kinds,
    check_name,
    read_record,
    read_yaml,
    refuse_damaged,
    undamaged,
)
from lab.engine.utils.formats import check_format
from lab.engine.utils.names import nearest
from lab.engine.utils.redaction import redact

if TYPE_CHECKING:
    import pytorch_lightning as pl  # takes seconds: imported where it is needed

log = logging.getLogger(__name__)

T = TypeVar("T")
FINISHED = ("completed", "pruned")
JOB = {"id": str, "restarts": int}
START: dict[str, Any] = {
    **{"started": str, "argv": [str], "changed": [str], "versions": dict, "git": (dict, type(None))},
    "jobs": {"slurm": JOB, "torchrun": JOB},
}
RECORD = START | {"status": str, "error": str, "seed": (int, type(None)), "resumed": [START]}  # kinds in run.json


@dataclass(frozen=True)
class Run:
    """Reads a run from its directory.

    Args:
        dir: holds `.hydra/config.yaml`, `run.json`, `metrics.json`, `checkpoints/`.
    """

    dir: Path

    @classmethod
    def open(cls, path: str | Path, log_dir: str | Path | None = None, argument: str = "run") -> "Run":
        """Opens the run at `path`, or with `latest` the one under `log_dir` that started last.

        Args:
            path: of the run's directory.
            log_dir: where runs are; where none is given, `paths.log_dir` of configs/.
            argument: name of the user's argument, for errors.

        Raises:
            UserError: when there is no run.
        """
        if is_latest := str(path) == "latest":
            log_dir = log_dir or find_log_dir()
            path = Path(log_dir, "latest")
        directory = Path(path)
        if not (directory / ".hydra" / "config.yaml").is_file():
            if is_latest:
                raise UserError(f"{argument}=latest: no run under {log_dir} yet; `make train` makes one")
            runs = [str(hydra_dir.parent) for hydra_dir in directory.parent.glob("*/.hydra")]
            raise UserError(
                f"{argument}={path} is no run directory: it holds no .hydra/config.yaml"
                + nearest(str(path), [*runs, "latest"])
            )
        run = cls(directory.resolve())
        check_name(run.dir)
        if metadata := run.metadata:
            check_format(metadata, run.dir / "run.json")
        return run

    @classmethod
    def list(cls, log_dir: str | Path | None = None, status: str | None = None, **choices: str) -> "Sequence[Run]":
        """Lists the runs under `log_dir`, those of sweeps too, the newest first; warns of damaged ones, left out.

        Args:
            log_dir: see `open`.
            status: of the runs to list; None for any.
            **choices: of config groups, of the runs to list: `model="lenet", data="mnist"`.
        """
        records = Path(log_dir or find_log_dir()).rglob("run.json")
        runs = [cls(path.parent) for path in records if (path.parent / ".hydra").is_dir()]

        def started(run: Run) -> tuple[str, Run] | None:
            is_wanted = status in (None, run.status) and all(run.choice(group) == choices[group] for group in choices)
            return (str(run.metadata.get("started")), run) if is_wanted else None

        selected = [found for found in undamaged(started, runs) if found is not None]
        return [run for _, run in sorted(selected, key=lambda found: found[0], reverse=True)]

    def __str__(self) -> str:
        """Describes the run in four lines: status, objective, age, directory."""
        return printable("\n".join(f"{name:10} {text}" for name, text in self._description().items()))

    def _repr_html_(self) -> str:
        """Describes the run in a notebook."""
        rows = (f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in self._description().items())
        return f"<table>{''.join(rows)}</table>"

    def _description(self) -> dict[str, str]:
        metric = OmegaConf.select(self.saved, "objective.metric")
        value = self.metrics.get(str(metric))
        started = self.metadata.get("started")
        return {
            "status": self.status,
            "objective": "none"
            if metric is None
            else f"{metric} {'not known yet' if value is None else f'{value:.4g}'}",
            "age": "not started" if started is None else self._age(started),
            "directory": str(self.dir),
        }

    @property
    def saved(self) -> DictConfig:
        """Reads the config as the run saved it, interpolations unresolved."""
        return self._load("config.yaml", DictConfig)

    @property
    def config(self) -> DictConfig:
        """Returns the saved config with the run's present directory in its paths."""
        config = self.saved
        config.paths.run_dir = str(self.dir)
        return config

    @property
    def overrides(self) -> Sequence[str]:
        """Reads the raw overrides that made the config."""
        return raw_overrides(self._load("overrides.yaml", ListConfig))

    def choice(self, group: str) -> str:
        """Returns the run's choice of a config group, such as `mnist` of `data`.

        Raises:
            UserError: when there is no such group.
        """
        choices = self.choices
        if group not in choices:
            raise UserError(f"{group}: no such config group{nearest(group, choices)}")
        return str(choices[group])

    @property
    def choices(self) -> dict[str, Any]:
        """Returns the run's choice of each config group: a name, several where a group takes a list, or None."""
        saved: Any = OmegaConf.to_container(self._load("hydra.yaml", DictConfig), resolve=False)
        path, kind = self.dir / ".hydra" / "hydra.yaml", {"hydra": {"runtime": {"choices": dict}}}
        check_kinds(path, saved, kind)
        choices: dict[str, Any] = saved["hydra"]["runtime"]["choices"]
        return choices

    @property
    def status(self) -> str:
        """Returns running, completed, pruned, failed or preempted; a killed run stays running."""
        return str(self.metadata.get("status", "unknown"))

    @property
    def seed(self) -> int | None:
        """Returns the seed that the run began with."""
        return self.metadata.get("seed")

    @property
    def metadata(self) -> dict[str, Any]:
        """Reads the run metadata, `run.json`."""
        content: dict[str, Any] = read_record(self.dir / "run.json", RECORD)
        return content

    @property
    def metrics(self) -> dict[str, float]:
        """Reads the final metrics; empty before the run has completed."""
        path = self.dir / "metrics.json"
        content = read_record(path, {})
        check_kinds(path, content, dict.fromkeys(content, NUMBER))
        try:
            return {name: float(value) for name, value in content.items()}
        except OverflowError as error:
            refuse_damaged(path, str(error))

    def checkpoint(self, which: str = "best") -> Path:
        """Returns the path of the `best` or the `last` checkpoint.

        Raises:
            UserError: when the run has none.
        """
        path = self.dir / "checkpoints" / f"{which}.ckpt"
        if not path.is_file():
            others = [p.stem for p in sorted(path.parent.glob("[!.]*.ckpt"))]
            raise UserError(
                f"no checkpoint {which!r} in {self.dir} (status {self.status})\n"
                + (
                    f"it has: {', '.join(others)}; take it with checkpoint={'last' if 'last' in others else others[0]}"
                    if others
                    else "it has none: train it again, with callbacks=default"
                )
            )
        return path

    def newest_checkpoint(self) -> Path | None:
        """Returns the checkpoint to resume from: the last one, or if that is damaged, the newest undamaged one.

        Returns:
            The path; None where there is no checkpoint yet.

        Raises:
            UserError: when all are damaged.
        """
        paths = (self.dir / "checkpoints").glob("[!.]*.ckpt")
        faults: list[str] = []
        for path in sorted(paths, key=lambda path: (path.stem == "last", path.stat().st_mtime), reverse=True):
            fault = find_fault(path)
            if fault is None:
                for line in faults:
                    log.warning("%s; resuming from %s", line, path.name)
                return path
            faults.append(f"{path.name}: {fault}")
        if faults:
            raise UserError("\n".join([f"{self.dir} has no checkpoint to go on from", *faults]))
        return None

    def read_checkpoint(self, which: str | Path = "best") -> dict[str, Any]:
        """Reads the `best` or the `last` checkpoint, or the one at a path; see `checkpointing.files`."""
        return read_checkpoint(which if isinstance(which, Path) else self.checkpoint(which))

    def model(self, which: str = "best", **changes: Any) -> "pl.LightningModule":
        """Rebuilds the model from the run's config, with the weights of the `best` or the `last` checkpoint.

        Hyperparameters that the model saved in the checkpoint override those of the config.

        Args:
            which: checkpoint.
            **changes: other values for arguments of the model.
        """
        from lab.engine.config.instantiate import build_model

        config, checkpoint = self.config, self.read_checkpoint(which)
        arguments = {key for key in map(str, config.model) if not key.startswith("_")}
        saved = {key: value for key, value in checkpoint.get("hyper_parameters", {}).items() if key in arguments}
        model = build_model(config, **saved | changes)
        model.configure_model()  # where Lightning lets it make its layers
        try:
            model.load_state_dict(checkpoint["state_dict"])
        except (KeyError, RuntimeError) as error:
            name = type(model).__name__
            lacking = sorted(checkpoint["state_dict"].keys() - model.state_dict().keys())
            why = f": its constructor and configure_model make no {lacking[0]}" if lacking else ""
            raise UserError(
                f"{self.checkpoint(which)} holds no {name} as the run's config describes it{why}"
            ) from error
        return model.eval()

    def preparation(self, which: str = "best") -> dict[str, Any]:
        """Reads the statistics of the training rows, for `restore` of a datamodule of the same class.

        It is in the checkpoint, so that the training file may be gone; empty for data that learns nothing.
        """
        name = str(OmegaConf.select(self.config, "data._target_")).rpartition(".")[2]
        return self.read_checkpoint(which).get(name, {}).get("preparation", {})

    def datamodule(self, config: DictConfig | None = None, which: str = "best") -> Any:
        """Builds the data of the run or of another `config`, prepared by the statistics of the run's training rows.

        Args:
            config: whose data is built; None for the run's own. Data of another class is prepared by itself.
            which: checkpoint that data with `restore` is restored from.

        Returns:
            None where the model has its own loaders.
        """
        from lab.engine.config.instantiate import instantiate

        data = instantiate((config or self.config).data)
        own = self.config
        is_alike = get(config or own, "data._target_") == get(own, "data._target_") and hasattr(data, "restore")
        if is_alike and (preparation := self.preparation(which)):
            data.restore(preparation)
        return data

    def test_callbacks(self, config: DictConfig | None = None) -> "Sequence[pl.Callback]":
        """Builds the callbacks of the run, or of `config`, that compute metrics at a test."""
        import pytorch_lightning as pl

        from lab.engine.config.instantiate import instantiate_each

        callbacks = instantiate_each((config or self.config).callbacks)
        return [c for c in callbacks if type(c).on_test_epoch_end is not pl.Callback.on_test_epoch_end]

    def save_metrics(self, metrics: dict[str, float], name: str = "metrics.json") -> None:
        """Writes the final metrics to metrics.json, or other metrics to another file `name`."""
        self.write(name, metrics)

    def _load(self, name: str, kind: type[T]) -> T:
        """Reads a file of `.hydra`, interpolations unresolved."""
        path = self.dir / ".hydra" / name
        try:
            read_yaml(path)  # refuses aliases that OmegaConf would expand without end
            content = OmegaConf.load(path)
        except (OmegaConfBaseException, OSError, RecursionError, ValueError, YAMLError) as error:
            refuse_damaged(path, str(error))
        check_kinds(path, content, kind)
        return content  # type: ignore[return-value]

    def _age(self, started: str) -> str:
        """Returns the time since `started` in its largest unit."""
        try:
            seconds = (datetime.now().astimezone() - datetime.fromisoformat(started).astimezone()).total_seconds()
        except (OverflowError, ValueError) as error:
            refuse_damaged(self.dir / "run.json", f"started: {error}")
        for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
            if seconds >= length:
                return f"{seconds // length:.0f} {unit}"
        return f"{seconds:.0f} s"

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file of the run atomically, with secrets of the environment masked."""
        with atomic_write(self.dir / name) as partial:
            partial.write_text(json.dumps(redact(content), indent=2) + "\n")
