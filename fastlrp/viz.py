"""Pictures of relevance, inputs and filters, as plain RGB arrays, and a way to write them to a file.

In: relevance or images of any real type, one (H, W) or (H, W, C), or a batch (N, H, W) or (N, H, W, C),
channels last. Out: RGB, float64 in [0, 1], (H, W, 3) or (N, H, W, 3). An array of three dimensions is one
picture if its last axis has 1 or 3 entries, else a batch of grey ones; `shape`, that of one picture, settles
any other case, flat rows (N, F) included. Nothing here draws figures or touches pyplot's state.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["filters", "grid", "heatmap", "image", "save", "soften"]

Picture = NDArray[np.float64]

_CHANNELS = (1, 3)  # grey, RGB
_NAN_GREY = 0.5
_HALF_TABLE = 512  # colours on each side of zero: finer than 8 bits can tell apart


def heatmap(
    relevance: ArrayLike,
    cmap: str = "bluered",
    *,
    normalize: str | float = "symmetric",
    soften: int = 0,
    shape: Sequence[int] | None = None,
) -> Picture:
    """Relevance as colours, (H, W, 3) or (N, H, W, 3); channels are summed.

    The colour map spans [-m, m], so that zero is exactly its middle, and a map of zeros all middle. m is the
    largest finite magnitude of each map ("symmetric") or of the batch ("shared"), or the number given; what
    lies beyond is cut off. NaN is grey (0.5), infinities have the end colours.

    `cmap` is "bluered" (white at zero; blue below, red above), "firered" (black at zero; blue to cyan below,
    red to yellow to white above) or the name of any Matplotlib colour map, best a diverging one like
    "coolwarm". `soften` is the radius of the filter of that name, applied after the sum.

    TypeError or ValueError for complex, object and string arrays, other shapes, and other options.
    """
    maps, batched = _pictures("relevance", relevance, shape)
    with np.errstate(invalid="ignore", over="ignore"):
        total = maps.sum(axis=-1, dtype=np.float64, keepdims=True)
    total = _box_mean(total, _integer("soften", soften, 0))[..., 0]
    rgb = _colour(_unit(total, normalize), cmap)
    return rgb if batched else rgb[0]


def soften(relevance: ArrayLike, radius: int = 1, *, shape: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Relevance averaged over the (2 radius + 1)² neighbours of each pixel; shape as given, channels apart.

    At a border the mean is over the neighbours that exist, so that constants stay constant (sums may change).
    NaN reaches as far as the radius. TypeError or ValueError unless radius is an integer >= 0.
    """
    maps, _ = _pictures("relevance", relevance, shape)
    return _box_mean(maps.astype(np.float64), _integer("radius", radius, 0)).reshape(np.shape(relevance))


def image(
    x: ArrayLike,
    low: float | None = None,
    high: float | None = None,
    *,
    shape: Sequence[int] | None = None,
) -> Picture:
    """Inputs as pictures, (H, W, 3) or (N, H, W, 3), from grey or RGB of any range.

    `low` becomes black and `high` full brightness; what lies beyond is cut off. Left out, they are the least
    and the largest finite value of each picture. NaN is grey (0.5).

    TypeError for complex, object and string arrays, ValueError unless there are 1 or 3 channels and
    low < high.
    """
    pictures, batched = _pictures("x", x, shape)
    if pictures.shape[-1] not in _CHANNELS:
        raise ValueError(f"x: expected 1 or 3 channels, got {pictures.shape[-1]} in shape {np.shape(x)}")
    values = pictures.astype(np.float64)
    black, white = _limits(values, low, high)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.clip((values - black) / np.where(white > black, white - black, 1), 0, 1)
    unit[np.isnan(unit)] = _NAN_GREY
    rgb: Picture = unit.repeat(3 // unit.shape[-1], axis=-1)
    return rgb if batched else rgb[0]


def filters(
    net: Any,
    cmap: str = "bluered",
    *,
    normalize: str | float = "symmetric",
    shape: Sequence[int] | None = None,
) -> Picture:
    """The filters of a network's first weighted layer, or of a layer, as pictures (M, H, W, 3).

    The weights (kh, kw, channels, out) of a convolution are pictures as they are; those of a linear layer,
    (in, out), take the shape of the network's input, or `shape`, (H, W) or (H, W, C). Filters of three
    channels are RGB with zero at grey (0.5), one picture each (M = out). Of other filters each channel is a
    heat map (M = out * channels), all channels of filter 0 first: `grid(pictures, columns=channels)` gives
    each filter a row. `cmap` and `normalize` are as in `heatmap`; "symmetric" means one scale for all
    channels of a filter.

    ValueError if no layer has weights, or their shape is not a picture's.
    """
    weight = _first_weight(net)
    if weight.ndim == 2:
        weight = weight.reshape(*_shape_of_inputs(net, len(weight), shape), -1)
    elif weight.ndim != 4:
        raise ValueError(f"net: expected weights (in, out) or (kh, kw, channels, out), got {weight.shape}")
    unit = _unit(np.moveaxis(weight, -1, 0).astype(np.float64), normalize)
    if unit.shape[-1] == 3:
        return np.where(np.isnan(unit), _NAN_GREY, 0.5 + 0.5 * unit)
    return _colour(np.moveaxis(unit, -1, 1).reshape(-1, *unit.shape[1:3]), cmap)


def grid(
    images: Any,
    columns: int | None = None,
    pad: int = 2,
    background: float | Sequence[float] = 1.0,
    *,
    upscale: int = 1,
) -> Picture:
    """One RGB picture of many, row by row: a batch, a list of pictures, or a list of lists, one for each row.

    Pictures are (H, W), (H, W, 1) or (H, W, 3) in [0, 1], as `heatmap` and `image` make them, of any sizes:
    all cells have the largest height and width, and a smaller picture sits in the middle. Without `columns`
    the grid is about as wide as high. `upscale` magnifies each picture by an integer; `pad` pixels of the
    `background`, a grey or an RGB colour, are around every cell.

    ValueError if there is no picture, a value is outside [0, 1], or `columns` is given along with rows.
    """
    rows = _rows(images, columns)
    scale, gap = _integer("upscale", upscale, 1), _integer("pad", pad, 0)
    rows = [[picture.repeat(scale, axis=0).repeat(scale, axis=1) for picture in row] for row in rows]
    height = max(len(picture) for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    shape = (len(rows) * (height + gap) + gap, max(map(len, rows)) * (width + gap) + gap, 3)
    canvas = np.empty(shape)
    canvas[:] = _colour_value("background", background)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top = gap + i * (height + gap) + (height - len(picture)) // 2
            left = gap + j * (width + gap) + (width - picture.shape[1]) // 2
            canvas[top : top + len(picture), left : left + picture.shape[1]] = picture
    return canvas


def save(path: str | os.PathLike[str], image: ArrayLike) -> Path:
    """Writes one picture, (H, W), (H, W, 1) or (H, W, 3) in [0, 1], and returns its path.

    The suffix chooses the format, .png or another that Matplotlib's `imsave` knows. Missing folders are made.
    The file appears whole or not at all. ValueError for other suffixes, shapes and values.
    """
    path = Path(path)
    # Rounded to the nearest level here, as imsave would cut off.
    pixels = np.rint(_rgb("image", image) * 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    try:
        matplotlib.image.imsave(temporary, pixels, format=path.suffix[1:].lower())
        os.replace(temporary, path)
    except (KeyError, ValueError) as error:
        raise ValueError(f"path: expected the suffix of a picture format, like .png, got {path}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _pictures(name: str, values: ArrayLike, shape: Sequence[int] | None = None) -> tuple[NDArray[Any], bool]:
    """The values as (N, H, W, C), and whether they came as a batch; the rule is at the top of this file."""
    array = _real(name, values)
    if shape is not None:
        picture = _picture_shape(shape)
        forms = (tuple(shape), picture, (math.prod(picture),))
        if array.shape not in forms and array.shape[1:] not in forms:
            raise ValueError(f"{name}: expected {shape}, flat or not, alone or in a batch, got {array.shape}")
        return array.reshape(-1, *picture), array.shape not in forms
    if array.ndim == 2:
        return array[np.newaxis, ..., np.newaxis], False
    if array.ndim == 3 and array.shape[-1] in _CHANNELS:
        return array[np.newaxis], False
    if array.ndim == 3:
        return array[..., np.newaxis], True
    if array.ndim != 4:
        raise ValueError(f"{name}: expected (H, W), (H, W, C), (N, H, W) or (N, H, W, C), got {array.shape}")
    _refuse_channels_first(name, array.shape[1:])
    return array, True


def _real(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got lists of different lengths") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected an array of real numbers, got {array.dtype}")
    return array


def _picture_shape(shape: Any) -> tuple[int, int, int]:
    try:
        height, width, *channels = (operator.index(length) for length in shape)
        (channels_or_one,) = channels or (1,)
    except (TypeError, ValueError):
        raise ValueError(f"shape: expected (H, W) or (H, W, C), got {shape!r}") from None
    if min(height, width, channels_or_one) < 1:
        raise ValueError(f"shape: expected lengths >= 1, got {shape!r}")
    return height, width, channels_or_one


def _refuse_channels_first(name: str, shape: tuple[int, ...]) -> None:
    """Imported networks may be channels first, and would give a picture one or three pixels high."""
    if shape[0] in _CHANNELS and min(shape[1:]) > 3:
        raise ValueError(
            f"{name}: expected channels last, (H, W, C), got {shape}: "
            "move the axis (np.moveaxis) or, if this is right, say so by shape="
        )


def _box_mean(maps: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """The mean over a square of neighbours, (N, H, W, C): first down the columns, then along the rows."""
    for axis in (1, 2):
        lines = np.moveaxis(maps, axis, 0)
        total, count = lines.copy(), np.ones(len(lines))
        with np.errstate(invalid="ignore", over="ignore"):
            for shift in range(1, min(radius, len(lines) - 1) + 1):
                total[shift:] += lines[:-shift]
                total[:-shift] += lines[shift:]
                count[shift:] += 1
                count[:-shift] += 1
        maps = np.moveaxis(total / count[:, np.newaxis, np.newaxis, np.newaxis], 0, axis)
    return maps


def _unit(values: NDArray[np.float64], normalize: str | float) -> NDArray[np.float64]:
    """The values (N, ...) over their scale, in [-1, 1]; NaN stays."""
    if not isinstance(normalize, str):
        scale: Any = _number("normalize", normalize)
        if scale <= 0:
            raise ValueError(f"normalize: expected a scale > 0, got {normalize}")
    elif normalize in ("symmetric", "shared"):
        axes = tuple(range(1, values.ndim)) if normalize == "symmetric" else None
        finite = np.isfinite(values)
        scale = np.max(np.abs(values), axis=axes, keepdims=True, initial=0, where=finite)
        scale = np.where(scale > 0, scale, 1)
    else:
        raise ValueError(f'normalize: expected "symmetric", "shared" or a scale > 0, got "{normalize}"')
    with np.errstate(over="ignore"):
        unit: NDArray[np.float64] = np.clip(values / scale, -1, 1)
    return unit


def _colour(unit: NDArray[np.float64], cmap: str) -> Picture:
    """Colours (..., 3) for values in [-1, 1]."""
    nan = np.isnan(unit)
    index = np.rint((np.where(nan, 0, unit) + 1) * _HALF_TABLE).astype(np.intp)
    rgb: Picture = _table(cmap)[index]
    rgb[nan] = _NAN_GREY
    return rgb


def _table(cmap: str) -> Picture:
    """Colours (2 * _HALF_TABLE + 1, 3): the odd number gives zero an entry of its own, the exact middle."""
    if not isinstance(cmap, str):
        raise TypeError(f"cmap: expected a name, got {type(cmap).__name__}")
    if cmap in _OWN_COLOURS:
        return np.clip(_OWN_COLOURS[cmap](np.linspace(-1, 1, 2 * _HALF_TABLE + 1)), 0, 1)
    if cmap not in matplotlib.colormaps:
        own = ", ".join(_OWN_COLOURS)
        raise ValueError(f'cmap: expected one of {own} or a colour map of Matplotlib, got "{cmap}"')
    size = 2 * _HALF_TABLE + 1
    return matplotlib.colormaps[cmap].resampled(size)(np.arange(size))[:, :3]


def _firered(v: NDArray[np.float64]) -> Picture:
    """Fire above zero, with a third of the range for each channel to rise; below, blue and then cyan."""
    return np.stack([3 * v, np.maximum(3 * v - 1, -2 * v - 1), np.maximum(3 * v - 2, -2 * v)], axis=-1)


def _bluered(v: NDArray[np.float64]) -> Picture:
    """White at zero, the full colour at two thirds of the range, and darker from there."""
    fade, dark = 1 - 1.5 * np.abs(v), 1 - 1.5 * np.maximum(np.abs(v) - 2 / 3, 0)
    return np.stack([np.where(v > 0, dark, fade), fade, np.where(v < 0, dark, fade)], axis=-1)


_OWN_COLOURS: dict[str, Callable[[NDArray[np.float64]], Picture]] = {"bluered": _bluered, "firered": _firered}


def _limits(values: NDArray[np.float64], low: float | None, high: float | None) -> tuple[Any, Any]:
    """What is black and what is white: the numbers given, else the picture's own range, (N, 1, 1, 1)."""
    finite = np.isfinite(values)
    least = np.min(values, axis=(1, 2, 3), keepdims=True, initial=np.inf, where=finite)
    largest = np.max(values, axis=(1, 2, 3), keepdims=True, initial=-np.inf, where=finite)
    black = least if low is None else _number("low", low)
    white = largest if high is None else _number("high", high)
    if low is not None and high is not None and not low < high:
        raise ValueError(f"high: expected more than low, {low}, got {high}")
    return black, white


def _first_weight(net: Any) -> NDArray[Any]:
    for layer in getattr(net, "layers", [net]):
        weight = getattr(layer, "weight", None)
        # Scales of a normalisation, one number for each channel, are no filters.
        if weight is not None and np.ndim(weight) > 1:
            return _real("weight", weight)
    raise ValueError(f"net: expected a layer with weights, or a network with one, got {type(net).__name__}")


def _shape_of_inputs(net: Any, count: int, shape: Sequence[int] | None) -> tuple[int, int, int]:
    """The picture (H, W, C) that a linear layer's inputs are."""
    picture = _picture_shape(getattr(net, "input_shape", None) if shape is None else shape)
    if shape is None:
        _refuse_channels_first("shape", picture)
    if math.prod(picture) != count:
        raise ValueError(f"shape: expected a picture of {count} entries, got {picture}")
    return picture


def _rows(images: Any, columns: int | None) -> list[list[Picture]]:
    """The pictures as RGB, row by row."""
    if not isinstance(images, (np.ndarray, list, tuple)):
        raise TypeError(f"images: expected an array or a list, got {type(images).__name__}")
    one_array = isinstance(images, np.ndarray) and images.ndim < 5
    items = list(_pictures("images", images)[0] if one_array else images)
    given_rows = [isinstance(item, (list, tuple)) or np.ndim(item) == 4 for item in items]
    if any(given_rows):
        if columns is not None or not all(given_rows):
            raise ValueError("images: expected a list of pictures, or rows alone and no columns, got rows")
        rows = [[_rgb("images", picture) for picture in row] for row in items]
    else:
        step = (
            max(1, math.ceil(math.sqrt(len(items)))) if columns is None else _integer("columns", columns, 1)
        )
        pictures = [_rgb("images", picture) for picture in items]
        rows = [pictures[start : start + step] for start in range(0, len(pictures), step)]
    if not any(rows):
        raise ValueError("images: expected at least one picture, got none")
    return rows


def _rgb(name: str, picture: ArrayLike) -> Picture:
    """One picture as RGB, (H, W, 3)."""
    array = _real(name, picture)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[-1] not in _CHANNELS or not array.size:
        batch = "; viz.grid makes one picture of a batch" if name == "image" and array.ndim > 2 else ""
        raise ValueError(f"{name}: expected pictures (H, W), (H, W, 1) or (H, W, 3), got {np.shape(picture)}{batch}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: expected values in [0, 1] (viz.image rescales), got {low} to {high}")
    return array.astype(np.float64).repeat(3 // array.shape[-1], axis=-1)


def _colour_value(name: str, value: float | Sequence[float]) -> Picture:
    colour = _real(name, value)
    if colour.shape not in ((), (3,)) or not np.all((colour >= 0) & (colour <= 1)):
        raise ValueError(f"{name}: expected a grey or three numbers, in [0, 1], got {value}")
    return colour.astype(np.float64)


def _integer(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer >= {least}, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {number}")
    return number


def _number(name: str, value: float) -> float:
    scalar = value[()] if isinstance(value, np.ndarray) and not value.ndim else value
    if isinstance(scalar, bool) or not isinstance(scalar, numbers.Real):
        raise TypeError(f"{name}: expected a real number, got {type(value).__name__}")
    try:
        number = float(scalar)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that a float can hold, got a larger one") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return number
