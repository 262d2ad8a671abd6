"""What `in=` stands for: a part of the run's data, images, or a table."""

import glob
from dataclasses import dataclass
from pathlib import Path

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.names import nearest

SPLITS = ("train", "val", "test")
IMAGES = (".png", ".jpg", ".jpeg")
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Input:
    """What is to be read.

    Args:
        kind: `split`, `images` or `table`.
        given: by the user.
        files: none for a split.
    """

    kind: str
    given: str
    files: tuple[Path, ...] = ()


def find_input(given: str) -> Input:
    """Finds what `in=` names.

    Raises:
        UserError: when nothing is there, or nothing that can be read.
    """
    path = Path(given)
    if given in SPLITS:
        return Input("split", given)
    if path.is_dir():
        return _images(given, sorted(path.iterdir()), "folder")
    if glob.has_magic(given) and not path.exists():
        return _images(given, [Path(found) for found in sorted(glob.glob(given, recursive=True))], "pattern")
    if not path.exists():
        beside = path.parent.iterdir() if path.parent.is_dir() else []
        near = nearest(given, SPLITS) or nearest(path.name, [p.name for p in beside])
        raise UserError(
            f"in={given}: no such file{near}\nin= takes a part of the run's data ({', '.join(SPLITS)}), an image, a"
            " folder or a pattern of images, or a CSV file"
        )
    if path.suffix.lower() in IMAGES:
        return Input("images", given, (path,))
    if path.suffix.lower() in TABLES:
        check_file(path, "in")
        return Input("table", given, (path,))
    raise UserError(
        f"in={given}: {path.suffix or 'a file without suffix'} is not read here\n"
        f"images: {', '.join(IMAGES)}; tables: {', '.join(TABLES)}"
    )


def _images(given: str, paths: list[Path], what: str) -> Input:
    files = tuple(path for path in paths if path.suffix.lower() in IMAGES and path.is_file())
    if not files:
        raise UserError(f"in={given}: this {what} holds no image ({', '.join(IMAGES)})")
    return Input("images", given, files)
