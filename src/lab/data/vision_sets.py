"""Lists torchvision's classification sets: sizes, classes, and the arguments that choose their parts; without torch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lab.data.image_index import image_dims
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

Parts = dict[str, dict[str, Any]]  # the constructor's arguments for each of `train`, `val` and `test` that there is

BY_FLAG: Parts = {"train": {"train": True}, "test": {"train": False}}
WHOLE: Parts = {"train": {}}


def by_split(train: str = "train", val: str | None = None, test: str | None = "test") -> Parts:
    """Returns the parts of a set whose constructor takes their names as `split`."""
    names = {"train": train, "val": val, "test": test}
    return {part: {"split": name} for part, name in names.items() if name is not None}


class VisionSet(NamedTuple):
    """Describes a set: (C, H, W), None where its pictures have many sizes; its number of classes; its parts."""

    image_shape: tuple[int, int, int] | None
    num_classes: int
    parts: Parts


SETS = {
    "CIFAR10": VisionSet((3, 32, 32), 10, BY_FLAG),
    "CIFAR100": VisionSet((3, 32, 32), 100, BY_FLAG),
    "CLEVRClassification": VisionSet(None, 8, by_split(val="val", test=None)),
    "Caltech101": VisionSet(None, 101, WHOLE),
    "Caltech256": VisionSet(None, 257, WHOLE),
    "Country211": VisionSet(None, 211, by_split(val="valid")),
    "DTD": VisionSet(None, 47, by_split(val="val")),
    "EMNIST": VisionSet(
        (1, 28, 28), 47, {part: {"split": "balanced"} | arguments for part, arguments in BY_FLAG.items()}
    ),
    "EuroSAT": VisionSet((3, 64, 64), 10, WHOLE),
    "FER2013": VisionSet((1, 48, 48), 7, by_split()),
    "FGVCAircraft": VisionSet(None, 100, by_split(val="val")),
    "FakeData": VisionSet((3, 32, 32), 10, {"train": {}, "test": {"random_offset": 1_000_000}}),
    "FashionMNIST": VisionSet((1, 28, 28), 10, BY_FLAG),
    "Flowers102": VisionSet(None, 102, by_split(val="val")),
    "Food101": VisionSet(None, 101, by_split()),
    "GTSRB": VisionSet(None, 43, by_split()),
    "ImageNet": VisionSet(None, 1000, by_split(val="val", test=None)),
    "Imagenette": VisionSet(None, 10, by_split(val="val", test=None)),
    "INaturalist": VisionSet(None, 10_000, {"train": {"version": "2021_train_mini"}, "val": {"version": "2021_valid"}}),
    "KMNIST": VisionSet((1, 28, 28), 10, BY_FLAG),
    "MNIST": VisionSet((1, 28, 28), 10, BY_FLAG),
    "Omniglot": VisionSet((1, 105, 105), 964, WHOLE),
    "OxfordIIITPet": VisionSet(None, 37, by_split("trainval")),
    "PCAM": VisionSet((3, 96, 96), 2, by_split(val="val")),
    "Places365": VisionSet(None, 365, by_split("train-standard", "val", None)),
    "QMNIST": VisionSet((1, 28, 28), 10, BY_FLAG),
    "RenderedSST2": VisionSet(None, 2, by_split(val="val")),
    "SEMEION": VisionSet((1, 16, 16), 10, WHOLE),
    "STL10": VisionSet((3, 96, 96), 10, by_split()),
    "SUN397": VisionSet(None, 397, WHOLE),
    "SVHN": VisionSet((3, 32, 32), 10, by_split()),
    "StanfordCars": VisionSet(None, 196, by_split()),
    "USPS": VisionSet((1, 16, 16), 10, BY_FLAG),
}


def find_set(
    name: str, image_shape: Sequence[int] | None = None, num_classes: int | None = None
) -> tuple[Sequence[int], int, Parts]:
    """Returns the size of a set's samples, the number of its classes, and its parts.

    Args:
        name: of a class of torchvision.datasets.
        image_shape: (C, H, W) to resize to; None for the set's own.
        num_classes: None for the set's own.

    Raises:
        UserError: when there is no such set, or its pictures have many sizes and none is given.
    """
    if name not in SETS:
        by_lower = {known.lower(): known for known in SETS}
        near = nearest(name, SETS) or nearest(name.lower(), by_lower)
        for lower, usual in by_lower.items():
            near = near.replace(f" {lower}?", f" {usual}?")
        raise UserError(f"data.name={name}: torchvision has no such classification set{near}\nit has {', '.join(SETS)}")
    known = SETS[name]
    shape = image_shape or known.image_shape
    if shape is None:
        raise UserError(
            f"the pictures of {name} have many sizes: say which to make of them, data.image_shape=[3,64,64]"
        )
    return shape, num_classes or known.num_classes, known.parts


def dims(
    name: str, image_shape: Sequence[int] | None, num_classes: int | None, mean: Any = None, std: Any = None
) -> dict[str, Any]:
    """Returns the `dims` of a set, see `lab.data.vision.TorchVision`."""
    shape, classes, _ = find_set(name, image_shape, num_classes)
    return image_dims(classes, shape, mean, std)
