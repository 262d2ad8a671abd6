"""Downloads MNIST once, and checks its files before every use."""

import gzip
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from lab.data.images import ImageDataModule
from lab.data.tensors import Batch, generator
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.files import atomic_write, cached_by_mtime
from lab.engine.utils.ranges import AtLeastTwo, PositiveFloat

log = logging.getLogger(__name__)

# SHA-256 of each file as it is served (.gz) and as it is read
FILES = {
    "train-images-idx3-ubyte": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
LIMIT = 16 << 20  # bytes: the longest of the four has 9.9 million


class MNIST(ImageDataModule):
    """Serves MNIST, handwritten digits: images (B, 1, 28, 28), labels (B,) in [0, 10).

    60,000 training images, or `num_samples` of them, `num_val` of which are held out, and the 10,000 test images.

    Args:
        data_dir: the files lie in its folder MNIST/raw, where torchvision puts them too.
        num_samples: training images to use, validation included, drawn by the seed of the split; None for all.
        mirrors: addresses (`https://`, `http://`, `file://`) of folders with the four .gz files, tried in turn after
            MNIST_MIRROR from the environment.
        timeout: seconds that a mirror may stay silent.
        deadline: seconds that a mirror has for one file, all attempts together.
        **images: see `ImageDataModule`.

    Raises:
        RunFailed: when no mirror serves the files.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
    """

    mean, std = 0.1307, 0.3081  # over the 60,000 training images
    image_shape = (1, 28, 28)

    def __init__(
        self,
        data_dir: str = "data",
        num_samples: AtLeastTwo | None = None,
        mirrors: Sequence[str] = MIRRORS,
        timeout: PositiveFloat = 30.0,
        deadline: PositiveFloat = 600.0,
        **images: Any,
    ) -> None:
        super().__init__(**images)
        self.data_dir = Path(data_dir)
        self.num_samples = num_samples
        self.mirrors = list(mirrors)
        self.timeout = timeout
        self.deadline = deadline

    def prepare_data(self) -> None:
        folder = self.data_dir / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        mirrors = [m for m in [os.environ.get("MNIST_MIRROR"), *self.mirrors] if m]
        with FileLock(folder / ".lock"):  # a second process waits here, and then finds the files
            for name, (_, digest) in FILES.items():
                path = folder / name
                if path.exists() and _digest(path) != digest:
                    log.warning("%s has a wrong checksum: fetching it again", path)
                    path.unlink()
                if not path.exists():
                    content = self._fetch(name, folder, mirrors)
                    with atomic_write(path) as partial:
                        partial.write_bytes(content)

    def load(self) -> dict[str, Batch]:
        folder = self.data_dir / "MNIST" / "raw"
        images, labels, test_images, test_labels = (_tensor(folder / name) for name in FILES)
        if self.num_samples is not None:
            chosen = torch.randperm(len(images), generator=generator(self.seed))[: self.num_samples]
            images, labels = images[chosen], labels[chosen]
        return {
            **self.split(images.unsqueeze(1), labels),  # (60000, 28, 28) -> (60000, 1, 28, 28)
            "test": (test_images.unsqueeze(1), test_labels),
        }

    def _fetch(self, name: str, folder: Path, mirrors: Sequence[str]) -> bytes:
        """Downloads one file, from the first source whose content has the right checksum."""
        from lab.data.download import download  # loads a client for HTTP, which most runs do without

        own = [folder.resolve().as_uri()] if (folder / f"{name}.gz").exists() else []
        tried = []
        for source in [*own, *mirrors]:
            url = f"{source.rstrip('/')}/{name}.gz"
            try:
                packed = download(url, self.timeout, self.deadline, LIMIT)
                if _sha256(packed) != FILES[name][0]:
                    raise OSError("wrong checksum")
                return gzip.decompress(packed)
            except OSError as error:
                log.warning("%s: %s", url, error)
                tried.append(f"{url}: {error}")
        raise RunFailed(
            f"MNIST cannot be had: {name}.gz came from none of\n"
            + "".join(f"  {line}\n" for line in tried)
            + f"Put the four .gz files into {folder}, or name another mirror with\n"
            "data.mirrors=[URL] or MNIST_MIRROR=URL (https://, http:// or file://). data=digits needs no download."
        )


@cached_by_mtime
def _digest(path: Path) -> str:
    return _sha256(path.read_bytes())


@cached_by_mtime
def _tensor(path: Path) -> Tensor:
    """Reads images (N, 28, 28), uint8, or labels (N,)."""
    return (read_image_file if "images" in path.name else read_label_file)(str(path))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
