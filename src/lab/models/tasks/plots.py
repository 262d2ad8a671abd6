"""Draws plots for TensorBoard with Pillow: uint8 tensors (3, H, W)."""

import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def log_image(module: pl.LightningModule, tag: str, image: Tensor) -> None:
    """Writes `image` to the run's TensorBoard, if it has one, from rank 0."""
    for board in boards(module):
        board.experiment.add_image(tag, image, module.global_step)


def log_text(module: pl.LightningModule, tag: str, text: str) -> None:
    """Writes `text`, without markup, to the run's TensorBoard, if it has one, from rank 0."""
    for board in boards(module):
        board.experiment.add_text(tag, f"```\n{text}\n```", module.global_step)


def boards(module: pl.LightningModule) -> list[TensorBoardLogger]:
    """Returns the TensorBoard loggers that this process writes to: none on ranks other than 0."""
    if not module.trainer.is_global_zero:
        return []
    return [logger for logger in module.loggers if isinstance(logger, TensorBoardLogger)]


def draw_confusion(counts: Tensor, cell: int = 36) -> Tensor:
    """Draws the confusion matrix `counts` (K, K): true classes down, predicted across, shaded by the share in a row."""
    size = counts.shape[0]
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    canvas = Image.new("RGB", ((size + 1) * cell, (size + 1) * cell), "white")
    draw = ImageDraw.Draw(canvas)

    def write(row: int, column: int, text: str, colour: str) -> None:
        draw.text(((column + 0.5) * cell, (row + 0.5) * cell), text, fill=colour, anchor="mm")

    for i in range(size):
        write(0, i + 1, str(i), "black")
        write(i + 1, 0, str(i), "black")
        for j in range(size):
            share = float(shares[i, j])
            light = round(255 * (1 - share**0.5))  # the root lets rare confusions be seen
            box = [(j + 1) * cell, (i + 1) * cell, (j + 2) * cell, (i + 2) * cell]
            draw.rectangle(box, fill=(light, light, 255), outline="lightgray")
            if counts[i, j] > 0:
                write(i + 1, j + 1, str(int(counts[i, j])), "white" if share > 0.5 else "black")
    return pil_to_tensor(canvas)


class TopErrors:
    """Collects, batch by batch, the wrongly classified images of which a classifier is surest.

    Args:
        keep: how many.
    """

    def __init__(self, keep: int = 36) -> None:
        self.keep = keep
        self.reset()

    def reset(self) -> None:
        self._images: list[Tensor] = []
        self.found: list[tuple[float, int, int]] = []  # (confidence, predicted, true) of each image

    def __len__(self) -> int:
        return len(self.found)

    def update(self, images: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds images (B, C, H, W) with C of 1 or 3, given logits (B, K) and labels (B,); ignores other inputs."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            return
        confidence, predicted = logits.float().softmax(1).max(1)  # (B, K) -> (B,), (B,)
        wrong = confidence.masked_fill(predicted == labels, -1.0)
        top = wrong.topk(min(self.keep, len(wrong))).indices
        for i in top[wrong[top] >= 0].tolist():
            self._images.append(images[i].float().cpu())
            self.found.append((confidence[i].item(), int(predicted[i]), int(labels[i])))
        best = sorted(range(len(self.found)), key=lambda i: -self.found[i][0])[: self.keep]
        self._images = [self._images[i] for i in best]
        self.found = [self.found[i] for i in best]

    def draw(self, columns: int = 6, cell: int = 84) -> Tensor:
        """Draws a grid of the images, each under `true > predicted (confidence)`."""
        rows = -(-len(self) // columns)
        canvas = Image.new("RGB", (columns * cell, rows * (cell + 14)), "white")
        draw = ImageDraw.Draw(canvas)
        for i, (image, (confidence, predicted, true)) in enumerate(zip(self._images, self.found, strict=True)):
            x, y = i % columns * cell, i // columns * (cell + 14)
            grey = (image - image.amin()) / (image.amax() - image.amin()).clamp(min=1e-6) * 255
            tile = Image.fromarray(grey.expand(3, -1, -1).permute(1, 2, 0).to(torch.uint8).numpy())
            canvas.paste(tile.resize((cell - 4, cell - 4)), (x + 2, y + 14))
            draw.text((x + cell / 2, y + 7), f"{true} > {predicted} ({confidence:.0%})", fill="black", anchor="mm")
        return pil_to_tensor(canvas)
