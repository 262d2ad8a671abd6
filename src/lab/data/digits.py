"""Generates images of handwritten digits: pen strokes, bent, slanted and blotted at random, drawn in torch."""

import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from lab.data.images import ImageDataModule
from lab.data.tensors import Batch, generator
from lab.engine.utils.files import atomic_write, cached_by_mtime
from lab.engine.utils.ranges import AtLeastTwo

log = logging.getLogger(__name__)

Stroke = list[tuple[float, float]]

# How people write each digit: a list of ways, each a list of strokes, each a smooth curve through points (x, y) of the
# unit square, y pointing down. A corner is where one stroke ends and the next begins.
SHAPES: list[list[list[Stroke]]] = [
    [  # 0: a ring that meets, overshoots, or stays a little open
        [[(0.5, 0), (0.2, 0.1), (0.03, 0.5), (0.2, 0.9), (0.5, 1), (0.8, 0.9), (0.97, 0.5), (0.8, 0.1), (0.5, 0)]],
        [[(0.7, 0.03), (0.35, 0), (0.1, 0.3), (0.1, 0.75), (0.4, 1), (0.75, 0.9), (0.95, 0.5), (0.8, 0.1), (0.4, 0.08)]],
        [[(0.45, 0.03), (0.12, 0.3), (0.1, 0.75), (0.45, 1), (0.85, 0.8), (0.92, 0.35), (0.7, 0.02), (0.5, 0.05)]],
    ],
    [  # 1: bare, with a flag, with a flag and a foot
        [[(0.5, 0), (0.5, 1)]],
        [[(0.52, 0), (0.5, 0.5), (0.47, 1)]],
        [[(0.3, 0.22), (0.52, 0)], [(0.52, 0), (0.5, 1)]],
        [[(0.3, 0.22), (0.52, 0)], [(0.52, 0), (0.5, 1)], [(0.22, 1), (0.8, 1)]],
    ],
    [  # 2: with a corner, with a loop, with a wave for a foot
        [[(0.1, 0.25), (0.3, 0.03), (0.65, 0.03), (0.82, 0.28), (0.6, 0.6), (0.08, 1)], [(0.08, 1), (0.95, 1)]],
        [
            [(0.12, 0.2), (0.4, 0), (0.75, 0.1), (0.75, 0.38), (0.42, 0.76), (0.12, 0.97)]
            + [(0.06, 0.82), (0.28, 0.78), (0.55, 0.92), (0.98, 0.98)]
        ],
        [
            [(0.1, 0.15), (0.45, 0), (0.8, 0.15), (0.7, 0.5), (0.1, 0.97)],
            [(0.1, 0.97), (0.3, 0.86), (0.6, 0.97), (0.95, 0.88)],
        ],
        [[(0.15, 0.12), (0.5, 0), (0.78, 0.2), (0.6, 0.62), (0.2, 0.95)], [(0.2, 0.95), (0.95, 0.92)]],
    ],
    [  # 3: two bows, a flat top, a small loop in the middle
        [
            [(0.12, 0.12), (0.45, 0), (0.8, 0.14), (0.72, 0.38), (0.38, 0.47)],
            [(0.38, 0.47), (0.78, 0.56), (0.88, 0.8), (0.55, 1), (0.08, 0.9)],
        ],
        [[(0.1, 0.02), (0.85, 0)], [(0.85, 0), (0.45, 0.42)], [(0.45, 0.42), (0.86, 0.56), (0.85, 0.86), (0.5, 1), (0.1, 0.9)]],
        [
            [(0.15, 0.1), (0.5, 0), (0.82, 0.15), (0.62, 0.4), (0.42, 0.5), (0.45, 0.42)]
            + [(0.75, 0.52), (0.88, 0.75), (0.6, 0.98), (0.1, 0.95)]
        ],
        [[(0.2, 0.05), (0.6, 0), (0.75, 0.2), (0.5, 0.42), (0.72, 0.6), (0.7, 0.85), (0.4, 1), (0.1, 0.95)]],
    ],
    [  # 4: open with corners, closed, open with a bowl
        [[(0.2, 0), (0.1, 0.55)], [(0.1, 0.55), (0.95, 0.5)], [(0.78, 0.05), (0.7, 1)]],
        [[(0.66, 0), (0.05, 0.65)], [(0.05, 0.65), (0.98, 0.65)], [(0.66, 0), (0.66, 1)]],
        [[(0.15, 0), (0.08, 0.38), (0.28, 0.54), (0.6, 0.5), (0.82, 0.38)], [(0.88, 0), (0.78, 0.5), (0.72, 1)]],
        [[(0.15, 0.05), (0.12, 0.45), (0.5, 0.52), (0.82, 0.42)], [(0.85, 0.02), (0.8, 0.42), (0.8, 1)]],
        [[(0.6, 0.02), (0.1, 0.5)], [(0.1, 0.5), (0.5, 0.52), (0.9, 0.46)], [(0.85, 0.1), (0.68, 0.5), (0.55, 1)]],
    ],
    [  # 5: three strokes, one swing, a long hat
        [[(0.85, 0), (0.25, 0.02)], [(0.25, 0.02), (0.17, 0.43)], [(0.17, 0.43), (0.5, 0.35), (0.86, 0.52), (0.84, 0.82), (0.48, 1), (0.08, 0.9)]],
        [[(0.92, 0.02), (0.38, 0.04), (0.22, 0.4), (0.6, 0.45), (0.82, 0.68), (0.6, 0.95), (0.08, 0.95)]],
        [[(0.3, 0.05), (0.22, 0.42)], [(0.22, 0.42), (0.55, 0.4), (0.75, 0.62), (0.65, 0.9), (0.35, 1), (0.1, 0.92)], [(0.3, 0.06), (0.98, 0)]],
        [[(0.95, 0), (0.5, 0.05), (0.35, 0.35), (0.7, 0.55), (0.7, 0.85), (0.4, 1), (0.05, 0.92)]],
    ],
    [  # 6: a bow into a ring, a straight back, a small ring
        [[(0.7, 0), (0.35, 0.2), (0.12, 0.6), (0.2, 0.92), (0.55, 1), (0.82, 0.8), (0.7, 0.58), (0.4, 0.56), (0.16, 0.75)]],
        [[(0.55, 0), (0.25, 0.4), (0.12, 0.75), (0.35, 1), (0.75, 0.95), (0.82, 0.7), (0.5, 0.56), (0.18, 0.75)]],
        [[(0.35, 0), (0.15, 0.4), (0.1, 0.8), (0.4, 1), (0.8, 0.92), (0.82, 0.68), (0.5, 0.62), (0.2, 0.88)]],
        [[(0.85, 0.02), (0.4, 0.25), (0.15, 0.65), (0.3, 0.97), (0.65, 0.95), (0.72, 0.7), (0.45, 0.62), (0.22, 0.82)]],
    ],
    [  # 7: a corner, a bow, with a bar, with a serif
        [[(0.05, 0.05), (0.9, 0.03)], [(0.9, 0.03), (0.6, 0.45), (0.4, 1)]],
        [[(0.05, 0.12), (0.4, 0.03), (0.92, 0.05), (0.68, 0.45), (0.45, 1)]],
        [[(0.05, 0.05), (0.9, 0.03)], [(0.9, 0.03), (0.6, 0.45), (0.4, 1)], [(0.3, 0.52), (0.85, 0.48)]],
        [[(0.08, 0.25), (0.1, 0.03)], [(0.1, 0.03), (0.9, 0.03)], [(0.9, 0.03), (0.68, 0.4), (0.6, 1)]],
        [[(0.1, 0.2), (0.3, 0.02), (0.6, 0.1), (0.88, 0.02)], [(0.88, 0.02), (0.7, 0.5), (0.6, 1)]],
    ],
    [  # 8: one crossing swing from either side, two rings
        [
            [(0.75, 0.15), (0.45, 0), (0.15, 0.15), (0.3, 0.4), (0.7, 0.6), (0.88, 0.82), (0.5, 1)]
            + [(0.12, 0.82), (0.3, 0.58), (0.7, 0.38), (0.8, 0.15), (0.6, 0.02)]
        ],
        [
            [(0.5, 0), (0.2, 0.1), (0.2, 0.36), (0.5, 0.47), (0.8, 0.36), (0.8, 0.1), (0.5, 0)],
            [(0.5, 0.47), (0.1, 0.65), (0.12, 0.92), (0.5, 1), (0.88, 0.92), (0.9, 0.65), (0.5, 0.47)],
        ],
        [
            [(0.85, 0.08), (0.5, 0), (0.25, 0.2), (0.45, 0.45), (0.68, 0.7), (0.6, 0.97)]
            + [(0.25, 0.97), (0.25, 0.72), (0.55, 0.45), (0.85, 0.1)]
        ],
    ],
    [  # 9: a ring and a stem, one swing with a curl, a straight leg
        [[(0.8, 0.2), (0.5, 0), (0.15, 0.15), (0.15, 0.4), (0.5, 0.48), (0.8, 0.28), (0.82, 0.1)], [(0.82, 0.1), (0.8, 0.5), (0.72, 1)]],
        [
            [(0.8, 0.15), (0.45, 0), (0.12, 0.22), (0.3, 0.46), (0.65, 0.4), (0.82, 0.12)]
            + [(0.85, 0.5), (0.75, 0.87), (0.4, 1), (0.12, 0.9)]
        ],
        [[(0.75, 0.25), (0.45, 0.46), (0.15, 0.32), (0.32, 0.04), (0.72, 0), (0.78, 0.2)], [(0.78, 0.2), (0.68, 0.6), (0.55, 1)]],
        [[(0.7, 0.05), (0.3, 0.05), (0.15, 0.3), (0.45, 0.42), (0.75, 0.1)], [(0.75, 0.1), (0.6, 0.55), (0.35, 1)]],
    ],
]  # fmt: skip

POINTS = 56  # pen positions that a digit is drawn with


class Digits(ImageDataModule):
    """Generates handwritten digits: images (B, 1, 28, 28), labels (B,) in [0, 10); needs no download.

    Drawn once for each (`num_samples`, `seed`) and kept in `data_dir`, framed like MNIST: 20 pixels high or wide,
    centred by their mass.

    Args:
        data_dir: the images lie in its folder digits.
        num_samples: training images, validation included; 10,000 test images come on top.
        **images: see `ImageDataModule`; `seed` is that of the images too.
    """

    mean, std = 0.15, 0.319
    image_shape = (1, 28, 28)
    num_samples: int

    def __init__(self, data_dir: str = "data", num_samples: AtLeastTwo = 60_000, **images: Any) -> None:
        super().__init__(num_samples=num_samples, **images)
        self.path = Path(data_dir) / "digits" / f"v1-{num_samples}-{self.seed}.pt"

    def prepare_data(self) -> None:
        if self.path.exists():  # also where nobody may write
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):  # a second process waits here, and then finds the file
            if self.path.exists():
                return
            log.info("drawing %d digits, once", self.num_samples + 10_000)
            images, labels = draw(self.num_samples + 10_000, generator(self.seed))
            with atomic_write(self.path) as partial:
                torch.save({"images": images, "labels": labels}, partial)

    def load(self) -> dict[str, Batch]:
        drawn = _drawn(self.path)
        images, labels = drawn["images"], drawn["labels"]
        n = self.num_samples
        return {**self.split(images[:n], labels[:n]), "test": (images[n:], labels[n:])}


@cached_by_mtime
def _drawn(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws images, uint8 (count, 1, 28, 28), and labels (count,), uniform over the digits and ways to write them."""
    labels = torch.randint(10, (count,), generator=generator)
    choice = torch.rand(count, generator=generator)
    images = torch.empty(count, 1, 28, 28, dtype=torch.uint8)
    for digit, ways in enumerate(SHAPES):
        of_digit = labels == digit
        for i, strokes in enumerate(ways):
            which = (of_digit & ((choice * len(ways)).long() == i)).nonzero().squeeze(1)
            for part in which.split(2048):  # bounds the memory
                images[part, 0] = _ink(*_pen(strokes, len(part), generator), generator)
    return images, labels


def _pen(strokes: list[Stroke], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws pen positions (count, POINTS, 2) for `count` hands, and the length inked at each (count, POINTS)."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    lengths = [sum(math.dist(a, b) for a, b in pairwise(s)) for s in strokes]
    ends = [round(sum(lengths[: i + 1]) / sum(lengths) * POINTS) for i in range(len(strokes))]
    counts = [b - a for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    control = torch.tensor([point for stroke in strokes for point in stroke])  # (C, 2)
    weights = torch.block_diag(*[_spline(len(s), n) for s, n in zip(strokes, counts, strict=True)])  # (POINTS, C)
    # Equal corners move together: where a stroke begins at the end of another, both are one control point.
    unique, same = torch.unique(control, dim=0, return_inverse=True)
    # Some hands are steady, some are not.
    control = control + (uniform(0.02, 0.09, 1, 1) * normal(len(unique), 2))[:, same]  # (count, C, 2)
    points = weights @ control - 0.5  # (count, POINTS, 2)

    # Curvature: a slow wave bends the whole digit.
    phase = uniform(0, 2 * math.pi, 1, 2)
    points = points + 0.08 * normal(1, 2) * torch.sin(uniform(2, 6, 1, 2) * points.flip(-1) + phase)

    # Slant, turn and proportions.
    x, y = points.unbind(-1)
    x = x * uniform(0.4, 1.15, 1)
    x = x - (0.12 + 0.22 * normal(1)) * y
    angle = 0.12 * normal(1)
    points = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)

    # Frame: the longer side measures 20 pixels, less what the pen's width adds.
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    points = points / (high - low).amax(-1, keepdim=True) * 17.0 * uniform(0.9, 1.08, 1, 1)

    step = (points[:, 1:] - points[:, :-1]).norm(dim=-1)  # (count, POINTS - 1)
    for end in ends[:-1]:
        step[:, end - 1] = 0  # the pen is lifted here
    zero = step.new_zeros(count, 1)
    ink = (torch.cat([zero, step], 1) + torch.cat([step, zero], 1)) / 2
    centre = (points * ink.unsqueeze(-1)).sum(1, keepdim=True) / ink.sum(1)[:, None, None]
    return points - centre + 13.5 + 0.6 * normal(1, 2), ink


def _spline(knots: int, samples: int) -> Tensor:
    """Returns weights (samples, knots) of the Catmull-Rom curve through `knots` points, at equal parameter steps."""
    t = torch.linspace(0, knots - 1, samples)
    i = t.floor().clamp(max=knots - 2).long()
    u = t - i
    basis = 0.5 * torch.stack(
        [-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, -(u**2) + u**3], 1
    )  # (samples, 4)
    weights = torch.zeros(samples, knots)
    for k in range(4):
        weights.scatter_add_(1, (i + k - 1).clamp(0, knots - 1).unsqueeze(1), basis[:, k : k + 1])
    return weights


def _ink(points: Tensor, ink: Tensor, generator: torch.Generator) -> Tensor:
    """Renders pen positions (count, POINTS, 2), in pixels, as images uint8 (count, 28, 28).

    Every position leaves a Gaussian blot. Blots are separable, so a whole image is one product of two thin matrices,
    and where they lie dense they add up to a stroke with a Gaussian profile, which a sigmoid sharpens.
    """
    count = len(points)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    pressure = 1 + 0.15 * torch.sin(
        torch.linspace(0, 1, POINTS) * uniform(2, 9, 1) + uniform(0, 2 * math.pi, 1)
    )  # (count, POINTS)
    width = (uniform(0.65, 1.5, 1) * pressure).unsqueeze(-1)  # (count, POINTS, 1), in pixels
    pixels = torch.arange(28.0)
    across, down = (torch.exp(-0.5 * ((pixels - p) / width) ** 2) for p in points.split(1, -1))  # (count, POINTS, 28)
    weight = ink.unsqueeze(-1) / (math.sqrt(2 * math.pi) * width)
    profile = (weight * down).transpose(1, 2) @ across  # (count, 28, 28), 1 in the middle of a stroke
    sharpness, threshold = uniform(6, 14, 1, 1), uniform(0.35, 0.5, 1, 1)
    image = torch.sigmoid(sharpness * (profile - threshold)) - torch.sigmoid(-sharpness * threshold)
    image = image * uniform(0.95, 1.4, 1, 1) + uniform(0, 0.06, 1, 1) * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1).mul(255).round().byte()
