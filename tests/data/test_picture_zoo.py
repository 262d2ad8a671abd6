"""One drawing in every mode and file that Pillow writes gives the same tensor."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lab.data.images import read_image
from lab.engine.utils.errors import UserError

SIZE = 16


def drawing(mode: str = "L") -> Image.Image:
    """Returns a black square on white."""
    picture = Image.new("L", (SIZE, SIZE), 255)
    picture.paste(0, (4, 4, 12, 8))
    return picture.convert(mode)


def ink(mode: str, hidden: int = 0) -> Image.Image:
    """Returns the drawing as black ink whose shape stands in its alpha alone; `hidden` is the colour beneath."""
    alpha = drawing().point(lambda value: 255 - value)
    picture = Image.new("LA", alpha.size, (0, 0))
    picture.paste(hidden, (0, 0, *alpha.size))
    picture = Image.merge("LA", (Image.composite(Image.new("L", alpha.size, 0), picture.getchannel(0), alpha), alpha))
    return picture.convert(mode)


def palette(transparent: bool) -> Image.Image:
    picture = drawing("1").convert("P")
    picture.putpalette([0, 0, 0] * 128 + ([0, 0, 0] if transparent else [255, 255, 255]) * 128)
    if transparent:
        picture.info["transparency"] = 255
    return picture


def sixteen_bits() -> Image.Image:
    return drawing("I").point(lambda value: value * 257).convert("I;16")


def transparent_colour(mode: str) -> Image.Image:
    """Returns black on a grey that the file declares transparent."""
    picture = drawing().point(lambda value: 100 if value else 0).convert(mode)
    picture.info["transparency"] = 100 if mode == "L" else (100, 100, 100)
    return picture


def turned() -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    return drawing().transpose(Image.Transpose.ROTATE_90), exif


# Name, ending, picture, options of `save`
PICTURES: list[tuple[str, str, Callable[[], Image.Image], dict[str, object]]] = [
    *[(mode, "png", lambda mode=mode: drawing(mode), {}) for mode in ("1", "L", "RGB", "RGBA", "LA")],
    ("I;16", "png", sixteen_bits, {}),
    ("P", "png", lambda: palette(transparent=False), {}),
    ("P of 2 colours", "png", lambda: drawing("RGB").quantize(2), {"bits": 1}),
    ("P with a transparent colour", "png", lambda: palette(transparent=True), {"transparency": 255}),
    ("L with a transparent colour", "png", lambda: transparent_colour("L"), {"transparency": 100}),
    ("RGB with a transparent colour", "png", lambda: transparent_colour("RGB"), {"transparency": (100,) * 3}),
    ("black ink in LA", "png", lambda: ink("LA"), {}),
    ("black ink in RGBA", "png", lambda: ink("RGBA"), {}),
    ("black ink over hidden grey", "png", lambda: ink("RGBA", hidden=90), {}),
    ("optimised", "png", drawing, {"optimize": True}),
    ("uncompressed", "png", drawing, {"compress_level": 0}),
    ("with a resolution", "png", drawing, {"dpi": (300, 300)}),
    ("turned by Exif", "png", lambda: turned()[0], {"exif": turned()[1]}),
    *[(f"{mode} JPEG", "jpg", lambda mode=mode: drawing(mode), {}) for mode in ("L", "RGB", "CMYK", "YCbCr")],
    ("progressive JPEG", "jpg", drawing, {"progressive": True}),
    ("JPEG turned by Exif", "jpeg", lambda: turned()[0], {"exif": turned()[1]}),
    ("subsampled JPEG", "jpg", lambda: drawing("RGB"), {"subsampling": 2}),
    ("capital ending", "PNG", drawing, {}),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ending", "picture", "options"), [row[1:] for row in PICTURES], ids=[row[0] for row in PICTURES]
)
def test_every_mode_gives_the_same_tensor(
    ending: str, picture: Callable[[], Image.Image], options: dict[str, object], channels: int, tmp_path: Path
) -> None:
    lossy = {"quality": 100} if ending.startswith("jp") else {}
    picture().save(tmp_path / f"drawing.{ending}", **lossy, **options)
    expected = torch.full((channels, SIZE, SIZE), 255)
    expected[:, 4:8, 4:12] = 0
    found = read_image(tmp_path / f"drawing.{ending}", (channels, SIZE, SIZE)).int()
    assert (found - expected).abs().max() <= (3 if lossy else 0)


def test_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    for ending in ("gif", "bmp", "tiff", "webp"):
        drawing().save(tmp_path / f"drawing.{ending}")
        (tmp_path / f"drawing.{ending}").rename(tmp_path / "drawing.png")
        with pytest.raises(UserError, match=r"drawing\.png .* no PNG or JPEG"):
            read_image(tmp_path / "drawing.png", (1, SIZE, SIZE))
