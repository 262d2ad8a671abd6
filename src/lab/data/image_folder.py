"""Serves pictures of the user's own: data=image_folder data.path=DIR"""

import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data.image_index import Labelled, class_names, encode_labels, find_pictures
from lab.data.image_loaders import ImageLoaderDataModule
from lab.data.images import Resize, read_image
from lab.data.loaders import Splits
from lab.data.tensors import generator
from lab.engine.utils.errors import RunFailed, UserError

log = logging.getLogger(__name__)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Reads PNG and JPEG files as bytes (C, H, W), with their labels."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], shape: Sequence[int], resize: Resize) -> None:
        self.files, self.labels, self.shape, self.resize = files, labels, shape, resize

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        try:
            return read_image(self.files[row], self.shape, self.resize), self.labels[row]
        except UserError as error:
            raise RunFailed(f"{error}\ndata.unreadable=skip leaves such pictures out") from error


class ImageFolder(ImageLoaderDataModule):
    """Serves the PNG and JPEG files of a folder.

    The folder has one folder for each class, whose name is the class's; or folders `train`, `val` and `test` with such,
    of which `val` and `test` may be missing; or a table of labels says what each picture is.

    A run that is evaluated on another `path` numbers its classes and normalises its pixels as the training pictures
    said, which every checkpoint holds. A folder with `test` alone, or `test_fraction=1`, is evaluated whole.

    Args:
        path: of the folder.
        labels: a CSV file with columns `file`, a path below the folder, and `label`.
        unreadable: whether a picture that cannot be read ends the run, or all are read once before it begins, and such
            are left out.
        **images: see `ImageLoaderDataModule`.
    """

    def __init__(
        self, path: str, labels: str | None = None, unreadable: Literal["refuse", "skip"] = "refuse", **images: Any
    ) -> None:
        super().__init__(**images)
        self.path, self.labels, self.unreadable = path, labels, unreadable

    @property
    def source(self) -> Path:
        return Path(self.path)

    def source_checksum(self) -> str:
        """Returns a checksum of the names and labels of the pictures, which decide their order."""
        return hashlib.sha256(json.dumps(find_pictures(self.source, self.labels)).encode()).hexdigest()

    def load(self) -> Splits:
        found = find_pictures(self.source, self.labels)
        if self.unreadable == "skip":
            found = self._readable(found)
        self.classes = self.classes or class_names(self.source, self.labels)
        numbers = encode_labels(found, self.classes)
        parts: Splits = {name: self._pictures(pictures, numbers[name]) for name, pictures in found.items()}
        return self.hold_out(parts, numbers.get("train"))

    def _pictures(self, pictures: Labelled, labels: Sequence[int]) -> Pictures:
        return Pictures([f"{self.path}/{file}" for file, _ in pictures], labels, self.image_shape, self.resize)

    def _readable(self, found: dict[str, Labelled]) -> dict[str, Labelled]:
        """Reads all pictures, and returns those that can be read."""
        pictures = list(itertools.chain(*found.values()))
        tried = _Tried(self._pictures(pictures, [0] * len(pictures)))
        # With a generator, since it would draw from the global one
        loader = DataLoader(tried, 256, num_workers=self.num_workers, collate_fn=list, generator=generator(0))
        is_readable = list(itertools.chain(*loader))
        if bad := [file for (file, _), readable in zip(pictures, is_readable, strict=True) if not readable]:
            named = ", ".join(bad[:10]) + ", …" * (len(bad) > 10)
            log.warning("left out %d of %d pictures, which cannot be read: %s", len(bad), len(pictures), named)
        rest = iter(is_readable)
        return {name: [picture for picture in part if next(rest)] for name, part in found.items()}


class _Tried(Dataset[bool]):
    """Says of each picture whether it can be read."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> bool:
        try:
            return bool(self.pictures[row])
        except RunFailed:
            return False
