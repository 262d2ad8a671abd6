"""Normalising and augmenting."""

import torch
from torch.nn import functional as F

from lab.data.draws import Draws
from lab.data.images import random_affine


def blob() -> torch.Tensor:
    image = torch.zeros(1, 1, 28, 28)
    image[..., 8:20, 11:17] = 1.0
    return image


def test_no_amplitude_is_the_identity() -> None:
    images = torch.rand(3, 1, 28, 28)
    same = random_affine(images, Draws(torch.arange(3), 0), degrees=0, scale=0, shear=0, translate=0)
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_translation_is_within_its_bound_and_keeps_the_mass() -> None:
    moved = random_affine(
        blob().expand(200, -1, -1, -1), Draws(torch.arange(200), 1), degrees=0, scale=0, shear=0, translate=3
    )
    torch.testing.assert_close(moved.sum((1, 2, 3)), blob().sum().expand(200), rtol=1e-4, atol=0)
    x = torch.arange(28.0)
    centre = (moved.sum(2).squeeze(1) * x).sum(1) / moved.sum((1, 2, 3))  # (200,)
    offset = centre - 13.5
    assert offset.abs().max() <= 3.0
    assert offset.std() > 1.0


def test_rotation_agrees_with_one_written_out() -> None:
    turned = random_affine(blob(), Draws(torch.arange(1), 2), degrees=30, scale=0, shear=0, translate=0)
    angle = (Draws(torch.arange(1), 2).uniform(6).float() * 2 - 1)[:, 0] * torch.pi / 6
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(1)
    theta = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1)
    expected = F.grid_sample(blob(), F.affine_grid(theta, [1, 1, 28, 28], align_corners=False), align_corners=False)
    torch.testing.assert_close(turned, expected)


def test_every_image_has_its_own_draw_and_the_key_decides() -> None:
    images = blob().expand(4, -1, -1, -1)
    first = random_affine(images, Draws(torch.arange(4), 3))
    assert torch.equal(first, random_affine(images, Draws(torch.arange(4), 3)))
    assert not torch.equal(first[0], first[1])
