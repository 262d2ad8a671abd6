"""Serves torchvision's classification sets: data=torchvision data.name=FashionMNIST"""

import inspect
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch.utils.data import Dataset
from torchvision import datasets

from lab.data.image_loaders import ImageLoaderDataModule
from lab.data.images import to_pixels
from lab.data.loaders import Splits
from lab.data.vision_sets import find_set
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.ranges import AtLeastTwo, ImageShape

SILENCE = 30.0  # seconds that a server may say nothing
LABELS = ("targets", "labels", "y")  # attributes under which a set has its labels, if it has them


class TorchVision(ImageLoaderDataModule):
    """Serves a classification set of torchvision: pictures and labels.

    Its own parts are `train`, `val` and `test`; of these, what it lacks is taken from `train`.

    Args:
        name: of the class in torchvision.datasets, see `lab.data.vision_sets`.
        data_dir: where torchvision puts its files, and finds them.
        download: whether to fetch the files where they are not there.
        image_shape: None for the set's own.
        num_classes: None for the set's own.
        options: more arguments of the class, such as `split: letters` of EMNIST.
        **images: see `ImageLoaderDataModule`.

    Raises:
        RunFailed: when the files are neither there nor to be had.
    """

    def __init__(
        self,
        name: str = "FashionMNIST",
        data_dir: str = "data",
        download: bool = True,
        image_shape: ImageShape | None = None,
        num_classes: AtLeastTwo | None = None,
        options: Mapping[str, Any] | None = None,
        **images: Any,
    ) -> None:
        shape, self.num_classes, parts = find_set(name, image_shape, num_classes)
        super().__init__(image_shape=tuple(shape), **images)  # type: ignore[arg-type]
        self.set_name, self.data_dir, self.download = name, Path(data_dir), download
        self.parts = {part: dict(arguments) | dict(options or {}) for part, arguments in parts.items()}
        if unknown := sorted((options or {}).keys() - _parameters(getattr(datasets, name))):
            raise UserError(f"data.options.{unknown[0]}: torchvision's {name} takes no such argument")

    def prepare_data(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # A second process waits here, and then finds the files
        with FileLock(self.data_dir / f".{self.set_name}.lock"):
            try:
                self._parts(self.data_dir, download=False)
            except (OSError, RuntimeError) as error:
                if not self.download or "download" not in _parameters(getattr(datasets, self.set_name)):
                    raise self._failed(error) from error
                with _new_folder(self.data_dir / f".{self.set_name}.part") as folder, _impatient():
                    try:
                        self._parts(folder, download=True)
                    except (OSError, RuntimeError) as failure:
                        raise self._failed(failure) from failure
                    _move(folder, self.data_dir)

    def load(self) -> Splits:
        parts = self._parts(self.data_dir, download=False)
        self.classes = self.classes or getattr(parts["train"], "classes", None)
        labels = next((getattr(parts["train"], name) for name in LABELS if hasattr(parts["train"], name)), None)
        return self.hold_out(parts, None if labels is None else [int(label) for label in labels])

    def restore(self, preparation: dict[str, Any]) -> None:
        if preparation["num_classes"] != self.num_classes:
            before = preparation["num_classes"]
            raise UserError(f"{self.set_name} has {self.num_classes} classes, and the run was trained on {before}")
        super().restore(preparation)

    @property
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"num_classes": self.num_classes}

    def _parts(self, root: Path, download: bool) -> dict[str, Dataset[Any]]:
        cls = getattr(datasets, self.set_name)
        more = {
            "root": str(root),
            "download": download,
            "image_size": tuple(self.image_shape),
            "num_classes": self.num_classes,
            "transform": partial(to_pixels, shape=self.image_shape, resize=self.resize),
        }
        more = {name: value for name, value in more.items() if name in _parameters(cls)}
        return {part: cls(**more | arguments) for part, arguments in self.parts.items()}

    def _failed(self, error: Exception) -> RunFailed:
        cause = " ".join(str(error).split())
        return RunFailed(
            f"torchvision's {self.set_name} cannot be had: {cause}\n"
            f"on a machine with a network: data.download=true, or torchvision.datasets.{self.set_name} with"
            f" download=True; then copy what lies in its folder into {self.data_dir}. data=digits needs no download."
        )


def _parameters(cls: type) -> set[str]:
    """Returns the names of the arguments that a class takes, by itself or through `**kwargs` of its bases."""
    found: set[str] = set()
    for owner in inspect.getmro(cls):
        if "__init__" in vars(owner):
            takes = inspect.signature(owner.__init__).parameters  # type: ignore[misc]
            found |= takes.keys()
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
                break
    return found


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Makes an empty folder, and removes it in the end."""
    shutil.rmtree(path, ignore_errors=True)  # of a process that was killed
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _impatient() -> Iterator[None]:
    """Bounds the silence of servers: torchvision sets no timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _move(source: Path, target: Path) -> None:
    """Moves the files below `source` to their places below `target`."""
    for folder, _, names in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(exist_ok=True)
        for name in names:
            Path(folder, name).replace(place / name)
