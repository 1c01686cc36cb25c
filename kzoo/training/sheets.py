"""A picture of a task: its first images with their classes, for people to look at."""

from __future__ import annotations

from pathlib import Path

from torchvision.transforms import v2

from kzoo.errors import InputError
from kzoo.files import replacing
from kzoo.training.tasks import Task, library

_LEAST, _MARGIN, _LABEL, _CHARACTER = 48, 4, 13, 6


def contact_sheet(task: Task, path: Path, rows: int = 8, columns: int = 12) -> None:
    """Write a PNG of the first training images in the upper rows and the first test images in the lower rows.

    Each image is enlarged by a whole factor to 48 pixels or more, with its class below. The bytes are the same each time.

    Raises:
        InputError: ``rows`` or ``columns`` is not positive, or Pillow is not installed.
        WorldError: the file cannot be written.
    """
    if rows < 1 or columns < 1:
        raise InputError(f"a sheet of {rows} rows and {columns} columns has no images: expected 1 or more of each")
    images, drawing, fonts = (library(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    zoom = -(-_LEAST // task.size)
    width, height = task.size * zoom + _MARGIN, task.size * zoom + _LABEL + _MARGIN
    sheet = images.new("L" if task.channels == 1 else "RGB", (columns * width, rows * height), "white")
    pen, font = drawing.Draw(sheet), fonts.load_default(size=_LABEL - 1)
    testing = rows // 2
    for split, first, count in ((task.train, 0, rows - testing), (task.test, rows - testing, testing)):
        for place in range(min(count * columns, len(split))):
            x, y = place % columns * width + _MARGIN // 2, (first + place // columns) * height + _MARGIN // 2
            image, label = split[place]
            picture = v2.functional.to_pil_image(image)
            sheet.paste(picture.resize((task.size * zoom,) * 2, images.Resampling.NEAREST), (x, y))
            text = _shown(task.classes[label], task.size * zoom // _CHARACTER)
            pen.text((x, y + task.size * zoom), text, font=font, fill="black")
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _shown(name: str, characters: int) -> str:
    """What fits below an image; the built-in font has Latin letters only."""
    return name[:characters].encode("latin-1", "replace").decode("latin-1")
