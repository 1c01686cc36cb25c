"""Images of letters and digits, drawn from the text fonts that come with matplotlib.

Each glyph of each font is rendered once and kept as signed distances to its outline. An image is an affine map of that,
made darker and lighter than its background. Image i of a class is a function of seed, part, class and i alone: its
random numbers are raw words of a counter-based generator, and pixels are made in integers, so that neither batches nor
the processor's vector units can change a byte.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kzoo.errors import InputError
from kzoo.training.tasks import TEST, TRAIN, library

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
GROUPS = MappingProxyType({"digits": string.digits, "upper": string.ascii_uppercase, "lower": string.ascii_lowercase})
#: The fonts of matplotlib that draw all 62 characters as themselves, by part; a test checks that there are no others.
FONTS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        TRAIN: (
            "DejaVuSans",
            "DejaVuSans-Bold",
            "DejaVuSans-BoldOblique",
            "DejaVuSansMono",
            "DejaVuSansMono-Oblique",
            "DejaVuSansMono-BoldOblique",
            "DejaVuSerif",
            "DejaVuSerif-Bold",
            "DejaVuSerif-BoldItalic",
            "STIXGeneral",
            "STIXGeneralItalic",
            "STIXGeneralBolIta",
            "cmb10",
            "cmr10",
            "cmtt10",
        ),
        TEST: (
            "DejaVuSans-Oblique",
            "DejaVuSansMono-Bold",
            "DejaVuSerif-Italic",
            "STIXGeneralBol",
            "cmss10",
            "cmti10",
        ),
    }
)
#: Smallest and largest value of each random number of an image, both included, in the unit that its name ends in.
RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "rotation_centidegrees": (-2500, 2500),
        "shear_permille": (-250, 250),
        "height_permille": (400, 640),
        "aspect_permille": (800, 1250),
        "right_permille": (-150, 150),
        "down_permille": (-150, 150),
        "bolder_permille": (-8, 32),
        "softness_permille": (1000, 2200),
        "contrast_levels": (80, 200),
        "noise_levels": (10, 80),
        "blotches_levels": (0, 120),
    }
)
#: A colour image tints paper and ink by up to this many levels in each channel.
TINT = 32

_CELL = 128
# A glyph's capital height is 1; its cell spans 2.1.
_CAPITAL = _CELL / 2.1
# Distances are kept in 64ths of a cell's pixel, up to 16 pixels.
_UNIT, _FAR = 64, 16
_FRACTION = 16
_BLOTCHES = 5
_PIXELS_AT_ONCE, _GLYPHS_AT_ONCE = 1 << 18, 1 << 10
# Font, polarity and paper's level follow the ranges; then tints of ink and paper, then the grid of blotches.
_WORDS = len(RANGES) + 3 + 6 + _BLOTCHES**2

_Ints = NDArray[np.int32]
_Cell = NDArray[np.int16]
_Words = NDArray[np.uint64]


def draw(
    characters: Sequence[str], numbers: Sequence[int], part: int, size: int, channels: int, seed: int
) -> NDArray[np.uint8]:
    """Image ``numbers[k]`` of class ``characters[k]`` for each k: uint8, N x channels x size x size.

    Raises:
        InputError: matplotlib, Pillow or scipy is not installed, or a font is missing.
    """
    images = np.empty((len(characters), channels, size, size), np.uint8)
    step = min(max(1, _PIXELS_AT_ONCE // (channels * size * size)), _GLYPHS_AT_ONCE)
    for first in range(0, len(characters), step):
        batch = slice(first, first + step)
        drawn = list(zip(characters[batch], numbers[batch], strict=True))
        images[batch] = _batch(drawn, part, size, channels, seed)
    return images


def _batch(drawn: list[tuple[str, int]], part: int, size: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Images of (character, number) pairs."""
    noise_words = -(-2 * channels * size * size // 8)
    words = np.stack([_words(seed, part, character, number, _WORDS + noise_words) for character, number in drawn])
    values = iter(words[:, :_WORDS].T)
    draws = {name: _between(next(values), *bounds) for name, bounds in RANGES.items()}
    fonts = FONTS[part]
    font = _between(next(values), 0, len(fonts) - 1)
    glyphs = [_glyph(fonts[index], character) for index, (character, _) in zip(font, drawn, strict=True)]
    coverage = _coverage(np.stack(glyphs), draws, size)
    paper, ink = _levels(draws["contrast_levels"], values, channels)
    blotches = _blotches(np.stack(list(values), axis=1), draws["blotches_levels"], size)
    noise = words[:, _WORDS:].astype("<u8").view(np.uint8)[:, : 2 * channels * size * size].astype(np.int32)
    noise = noise.reshape(len(drawn), 2, channels, size, size).sum(axis=1) - 255
    paper = paper[:, :, None, None] + blotches[:, None]
    ink = ink[:, :, None, None]
    image = paper + ((ink - paper) * coverage[:, None] >> 8)
    image += noise * draws["noise_levels"][:, None, None, None] >> 8
    return np.clip(image, 0, 255).astype(np.uint8)


def _words(seed: int, part: int, character: str, number: int, count: int) -> _Words:
    """Random words that belong to one image alone."""
    # The low three words of the counter count within the image, the high one counts images.
    source = np.random.Philox(key=(((part << 32) | ord(character)) << 64) | seed, counter=number << 192)
    words: _Words = source.random_raw(count)
    return words


def _between(words: _Words, low: int, high: int) -> _Ints:
    """Integers from ``low`` to ``high``, both included, one of each word."""
    span = np.uint64(high - low + 1)
    return ((words >> np.uint64(32)) * span >> np.uint64(32)).astype(np.int32) + np.int32(low)


def _levels(contrast: _Ints, values: Iterator[_Words], channels: int) -> tuple[_Ints, _Ints]:
    """Levels of paper and ink, N x channels each: one is lighter by the contrast, at random which."""
    sign = 2 * _between(next(values), 0, 1) - 1
    room = next(values)
    darker = ((room >> np.uint64(32)) * (256 - contrast).astype(np.uint64) >> np.uint64(32)).astype(np.int32)
    paper, ink = (np.repeat((darker + contrast * side)[:, None], channels, 1) for side in (sign < 0, sign > 0))
    tints = np.stack([_between(next(values), -TINT, TINT) for _ in range(6)], axis=1)
    if channels == 3:
        paper, ink = paper + tints[:, :3], ink + tints[:, 3:]
    return paper, ink


def _blotches(words: _Words, strength: _Ints, size: int) -> _Ints:
    """Light and dark spots of the paper: a small grid of random levels, interpolated; N x size x size."""
    grid = _between(words, -128, 127).reshape(-1, _BLOTCHES, _BLOTCHES)
    # Weights in 256ths between the grid's nodes, which span the image.
    place = (2 * np.arange(size) + 1) * (_BLOTCHES - 1) * 128 // size
    weights = np.maximum(256 - np.abs(place[:, None] - 256 * np.arange(_BLOTCHES)), 0).astype(np.int32)
    rows = np.einsum("sg,ngh->nsh", weights, grid)
    smooth = np.einsum("nsh,th->nst", rows, weights) >> 16
    spots: _Ints = (smooth * strength[:, None, None] >> 8).astype(np.int32)
    return spots


def _coverage(distances: _Cell, draws: Mapping[str, _Ints], size: int) -> _Ints:
    """How much of each pixel the ink covers, from 0 to 256; N x size x size."""
    found = _warped(distances, _inverse_maps(draws, size), size)
    # Levels of coverage per unit of distance, in 4096ths: an edge is as wide as softness says, in pixels of the image.
    pixels = size * draws["height_permille"] / 1000 / _CAPITAL
    slope = np.rint(256 * 4096 * pixels / _UNIT / (draws["softness_permille"] / 1000)).astype(np.int32)
    bolder = np.rint(draws["bolder_permille"] / 1000 * _CAPITAL * _UNIT).astype(np.int32)
    ramp: _Ints = (found + bolder[:, None, None]) * slope[:, None, None] >> 12
    return np.clip(ramp + 128, 0, 256)


def _inverse_maps(draws: Mapping[str, _Ints], size: int) -> NDArray[np.int32]:
    """N x 2 x 3: from half pixels off the image's centre to 65536ths of a pixel of the glyph's cell (y, x; y, x, 1)."""
    angle = np.deg2rad(draws["rotation_centidegrees"] / 100)
    cosine, sine, shear = np.cos(angle), np.sin(angle), draws["shear_permille"] / 1000
    scale = _CAPITAL / (draws["height_permille"] / 1000 * size)
    narrow = 1 / (draws["aspect_permille"] / 1000)
    # Turned back, sheared back, then scaled; a wide glyph is a narrow one seen through a small horizontal scale.
    linear = np.array([[cosine, -sine], [narrow * (sine + shear * cosine), narrow * (cosine - shear * sine)]])
    linear *= scale
    shift = np.stack([draws["down_permille"], draws["right_permille"]]) / 1000 * size
    offset = _CELL / 2 - 0.5 - np.einsum("ijn,jn->in", linear, shift)
    maps = np.concatenate([linear / 2, offset[:, None]], axis=1)
    # Rounding hides the last bits in which sines may differ between machines.
    return np.ascontiguousarray(np.rint(maps * (1 << _FRACTION)).astype(np.int32).transpose(2, 0, 1))


def _warped(distances: _Cell, maps: _Ints, size: int) -> _Ints:
    """Each glyph's distances at the places of the image's pixels, interpolated; N x size x size."""
    count = len(distances)
    steps = 2 * np.arange(size, dtype=np.int32) + 1 - size
    places = []
    for axis in (0, 1):
        by_row, by_column, offset = maps[:, axis].T[:, :, None, None]
        places.append(np.clip(by_row * steps[:, None] + by_column * steps + offset, 0, (_CELL - 1 << _FRACTION) - 1))
    (row, column), (down, right) = zip(*((p >> _FRACTION, p >> (_FRACTION - 8) & 255) for p in places), strict=True)
    flat = distances.reshape(-1)
    at = row * _CELL + column + (np.arange(count, dtype=np.int32) * _CELL**2)[:, None, None]
    upper = flat[at] * (256 - right) + flat[at + 1] * right
    lower = flat[at + _CELL] * (256 - right) + flat[at + _CELL + 1] * right
    found: _Ints = upper * (256 - down) + lower * down >> 16
    return found


@cache
def _glyph(font: str, character: str) -> _Cell:
    """Signed distances to the outline (positive inside), _CELL x _CELL; the middle of a capital's height is centred."""
    drawing, images = library("PIL.ImageDraw"), library("PIL.Image")
    face, capital = _face(font)
    left, _, right, _ = face.getbbox(character, anchor="ls")
    canvas = images.new("L", (_CELL, _CELL))
    place = (_CELL / 2 - (left + right) / 2, _CELL / 2 + capital / 2)
    drawing.Draw(canvas).text(place, character, font=face, fill=255, anchor="ls")
    return _distances(np.asarray(canvas) / 255)


@cache
def _face(font: str) -> tuple[Any, int]:
    """A font in the size in which a capital H is _CAPITAL high, and that height in whole pixels."""
    fonts = library("PIL.ImageFont")
    path = Path(library("matplotlib").get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"

    def sized(size: float) -> Any:
        return fonts.truetype(str(path), size, layout_engine=fonts.Layout.BASIC)

    try:
        top = -sized(1000).getbbox("H", anchor="ls")[1]
        face = sized(1000 * _CAPITAL / top)
    except OSError as error:
        raise InputError(
            f"the font {font} of matplotlib cannot be read ({error}): install matplotlib again, 3.9 or newer"
        ) from None
    return face, -face.getbbox("H", anchor="ls")[1]


def _distances(ink: NDArray[np.float64]) -> _Cell:
    """Signed distances of pixels to the edge of a shape whose coverage is ``ink`` (0 to 1), in units, clipped."""
    transform = library("scipy.ndimage").distance_transform_edt

    def reach(background: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        distance, (row, column) = transform(background, return_indices=True)
        return distance, ink[row, column] - 0.5

    # A pixel that the outline crosses tells by its coverage how far the outline is; others count from the nearest such.
    inside, inside_edge = reach(ink == 1)
    outside, outside_edge = reach(ink == 0)
    signed = np.where(ink == 1, inside + inside_edge, np.where(ink == 0, outside_edge - outside, ink - 0.5))
    units: _Cell = np.rint(np.clip(signed, -_FAR, _FAR) * _UNIT).astype(np.int16)
    return units
