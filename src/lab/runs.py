"""A run directory as an object: what a run was, what it measured, and the model it made."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lab.compose import ROOT, nearest
from lab.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl  # takes seconds: imported where it is needed


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        dir: holds `.hydra/config.yaml`, `run.json`, `metrics.json`, `checkpoints/`.
    """

    dir: Path

    @classmethod
    def open(cls, path: str | Path, log_dir: str | Path = ROOT / "logs") -> "Run":
        """The run at `path`, or with `latest` the one begun last under `log_dir`.

        Raises:
            UserError: when there is no run.
        """
        directory = Path(log_dir) / "latest" if str(path) == "latest" else Path(path)
        if not (directory / ".hydra" / "config.yaml").is_file():
            if str(path) == "latest":
                raise UserError(f"run=latest: no run under {log_dir} yet; `make train` makes one")
            runs = [str(found.parent) for found in directory.parent.glob("*/.hydra")]
            raise UserError(
                f"run={path} is no run directory: it holds no .hydra/config.yaml{nearest(str(path), [*runs, 'latest'])}"
            )
        return cls(directory.resolve())

    @property
    def config(self) -> DictConfig:
        """The composed config of the run, its paths those of this checkout and this directory."""
        config = OmegaConf.load(self.dir / ".hydra" / "config.yaml")
        assert isinstance(config, DictConfig)
        config.paths.run_dir = str(self.dir)
        return config

    def choice(self, group: str) -> str:
        """What the run chose from a config group, such as `mnist` from `data`."""
        return str(OmegaConf.load(self.dir / ".hydra" / "hydra.yaml").hydra.runtime.choices[group])

    @property
    def status(self) -> str:
        """running, completed or failed."""
        return str(self._read("run.json").get("status", "unknown"))

    @property
    def metrics(self) -> dict[str, float]:
        """The final figures; none before the run has completed."""
        return self._read("metrics.json")

    def checkpoint(self, which: str = "best") -> Path:
        """The path of the `best` or the `last` checkpoint.

        Raises:
            UserError: when the run has none.
        """
        path = self.dir / "checkpoints" / f"{which}.ckpt"
        if not path.is_file():
            found = [p.stem for p in sorted(path.parent.glob("*.ckpt"))]
            raise UserError(
                f"no checkpoint {which!r} in {self.dir} (status {self.status})\n"
                + (f"it has: {', '.join(found)}" if found else "it has none: train it again, with callbacks=default")
            )
        return path

    def model(self, which: str = "best", **changes: Any) -> "pl.LightningModule":
        """The model with the weights of the `best` or the `last` checkpoint, ready to evaluate.

        Args:
            which: checkpoint.
            **changes: arguments of the model to give anew.
        """
        from hydra.utils import get_object

        path = self.checkpoint(which)
        architecture = get_object(self.config.model._target_)
        return architecture.load_from_checkpoint(path, map_location="cpu", weights_only=True, **changes)

    def preparation(self, which: str = "best") -> dict[str, Any]:
        """What the run's data learned from its training rows, for `restore` of a datamodule of the same class.

        As the checkpoint `which` holds it, so that the training file may be gone; nothing for data that learns nothing.
        """
        import torch

        saved = torch.load(self.checkpoint(which), map_location="cpu", weights_only=True, mmap=True)
        name = str(self.config.data._target_).rpartition(".")[2]
        return saved.get(name, {}).get("preparation", {})

    def datamodule(self, config: DictConfig | None = None) -> "pl.LightningDataModule":
        """The data of the run, or of `config` where another is given."""
        from lab.build import instantiate

        return instantiate((config or self.config).data)

    def judges(self, config: DictConfig | None = None) -> "list[pl.Callback]":
        """The callbacks of the run, or of `config`, that measure something at a test."""
        import pytorch_lightning as pl

        from lab.build import instantiate_each

        every = instantiate_each((config or self.config).callbacks)
        return [c for c in every if type(c).on_test_epoch_end is not pl.Callback.on_test_epoch_end]

    def start(self, config: DictConfig) -> None:
        """Marks the run as running and makes it the latest."""
        self._write(
            "run.json",
            {
                "status": "running",
                "started": _now(),
                "argv": sys.argv,
                "git": _git(),
                "versions": {name: version(name) for name in ("torch", "pytorch-lightning", "hydra-core")}
                | {"python": sys.version.split()[0]},
                "seed": config.seed,
            },
        )
        link = Path(config.paths.log_dir) / "latest"
        fresh = link.with_name(f".latest-{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(self.dir, link.parent))
        fresh.replace(link)

    def note(self, **facts: Any) -> None:
        """Adds `facts` to `run.json`."""
        self._write("run.json", self._read("run.json") | facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Records how the run ended."""
        self.note(status=status, finished=_now(), **facts)

    def save_metrics(self, metrics: dict[str, float], name: str = "metrics.json") -> None:
        """Writes `metrics` as the final figures, or under another `name`."""
        self._write(name, metrics)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.dir / name
        return json.loads(path.read_text()) if path.is_file() else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        partial = self.dir / f".{name}.part"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self.dir / name)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _git() -> dict[str, Any] | None:
    """The commit of the checkout and whether files differ from it; None outside a repository."""

    def ask(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
