"""Pictures: colours and their scale, softening, grids, filters, files."""

import runpy
import sys
from types import SimpleNamespace

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from fastlrp import viz

RNG = np.random.default_rng(3)
CMAPS = ["bluered", "firered", "bwr", "seismic", "coolwarm", "RdBu", "jet"]
WHITE, BLACK, GREY = (1, 1, 1), (0, 0, 0), (0.5, 0.5, 0.5)


def layer(*shape):
    return SimpleNamespace(weight=RNG.normal(size=shape))


# ------------------------------------------------------------------------------------------ heat maps


@pytest.mark.parametrize(
    ("shape", "of_picture", "expected"),
    [
        ((7, 5), None, (7, 5, 3)),
        ((7, 5, 1), None, (7, 5, 3)),
        ((7, 5, 3), None, (7, 5, 3)),
        ((2, 7, 5), None, (2, 7, 5, 3)),
        ((2, 7, 2), None, (2, 7, 2, 3)),
        ((2, 7, 5, 1), None, (2, 7, 5, 3)),
        ((2, 7, 5, 16), None, (2, 7, 5, 3)),
        ((0, 7, 5), None, (0, 7, 5, 3)),
        ((7, 5, 16), (7, 5, 16), (7, 5, 3)),  # an inner layer's, not seven maps of 5 x 16
        ((7, 5, 3), (5, 3), (7, 5, 3, 3)),  # seven maps of 5 x 3, not one of three channels
        ((35,), (7, 5), (7, 5, 3)),
        ((2, 35), (7, 5), (2, 7, 5, 3)),
        ((1, 105), (7, 5, 3), (1, 7, 5, 3)),
        ((2, 1, 7, 5), (1, 7, 5), (2, 1, 7, 3)),
    ],
    ids=str,
)
def test_shapes(shape, of_picture, expected):
    assert viz.heatmap(np.ones(shape), shape=of_picture).shape == expected
    assert viz.soften(np.ones(shape), shape=of_picture).shape == shape


@pytest.mark.parametrize(
    ("cmap", "zero", "high", "low"),
    [
        ("bluered", WHITE, (0.5, 0, 0), (0, 0, 0.5)),
        ("firered", BLACK, WHITE, (0, 1, 1)),
        ("bwr", WHITE, (1, 0, 0), (0, 0, 1)),
        ("seismic", WHITE, (0.5, 0, 0), (0, 0, 0.3)),
    ],
)
def test_colours_are_exact_at_zero_and_at_the_ends(cmap, zero, high, low):
    rgb = viz.heatmap([[0.0, 4.0, -4.0, -0.0]], cmap)
    np.testing.assert_allclose(rgb[0], [zero, high, low, zero], rtol=0, atol=1e-15)


@pytest.mark.parametrize("cmap", CMAPS)
def test_zero_is_the_middle_whatever_else_is_in_the_map(cmap):
    middle = viz.heatmap(np.zeros((2, 3)), cmap)
    np.testing.assert_array_equal(middle, np.broadcast_to(middle[0, 0], (2, 3, 3)))
    if cmap not in ("bluered", "firered"):
        _, expected, _ = matplotlib.colormaps[cmap].resampled(3)(range(3))[:, :3]
        np.testing.assert_array_equal(middle[0, 0], expected)
    for lopsided in ([[0, 1, 100]], [[0, -1e-30, -3e-30]], [[0, 1e300, -1e-300]], [[0, 1, np.inf]]):
        np.testing.assert_array_equal(viz.heatmap(lopsided, cmap)[0, 0], middle[0, 0])


@pytest.mark.parametrize("cmap", CMAPS)
def test_colours_follow_the_map(cmap):
    values = np.linspace(-1, 1, 301)[np.newaxis]
    rgb = viz.heatmap(values, cmap)
    assert rgb.min() >= 0 and rgb.max() <= 1
    if cmap not in ("bluered", "firered"):
        expected = matplotlib.colormaps[cmap]((values + 1) / 2)[..., :3]
        np.testing.assert_allclose(rgb, expected, atol=0.04)
    else:  # each half is its own path of colours, without jumps
        assert len(np.unique(rgb.round(12), axis=1)[0]) == 301
        assert np.abs(np.diff(rgb, axis=1)).max() < 0.03


@pytest.mark.parametrize(
    ("normalize", "same_as"),
    [
        ("symmetric", [[1, -0.5], [0.25, -1]]),
        ("shared", [[0.25, -0.125], [0.25, -1]]),
        (2.0, [[0.5, -0.25], [0.5, -1]]),
        (8, [[0.125, -0.0625], [0.125, -0.5]]),
    ],
    ids=str,
)
def test_scale(normalize, same_as):
    maps = np.array([[1, -0.5], [1, -4]]).reshape(2, 1, 2)
    expected = viz.heatmap(np.reshape(same_as, (2, 1, 2)), normalize=1)
    np.testing.assert_array_equal(viz.heatmap(maps, normalize=normalize), expected)


def test_channels_are_summed():
    relevance = RNG.normal(size=(4, 6, 5, 3))
    expected = viz.heatmap(relevance.sum(axis=-1), normalize=5)
    np.testing.assert_array_equal(viz.heatmap(relevance, normalize=5), expected)


def test_a_map_does_not_depend_on_its_batch():
    relevance = RNG.normal(size=(4, 6, 5, 3))
    for one, of_batch in zip(relevance, viz.heatmap(relevance, soften=1), strict=True):
        np.testing.assert_array_equal(viz.heatmap(one, soften=1), of_batch)


def test_nan_is_grey_and_infinities_are_the_ends():
    rgb = viz.heatmap([[np.nan, np.inf, -np.inf, 2.0, 1.0]], "bwr")
    np.testing.assert_allclose(rgb[0, :4], [GREY, (1, 0, 0), (0, 0, 1), (1, 0, 0)], atol=1e-15)
    np.testing.assert_array_equal(rgb[0, 4], viz.heatmap([[2.0, 1.0]], "bwr")[0, 1])
    assert (viz.heatmap(np.full((2, 2), np.nan)) == 0.5).all()
    assert (viz.heatmap([[[np.inf, -np.inf]]], shape=(1, 1, 2)) == 0.5).all()


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "i2", "i8", "?"])
def test_any_real_array_and_unchanged(dtype):
    relevance = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    expected = viz.heatmap([[0.0, 1, 1], [1, 0, 0]], soften=1)
    relevance.flags.writeable = False
    np.testing.assert_array_equal(viz.heatmap(relevance, soften=1), expected)
    np.testing.assert_array_equal(viz.heatmap(relevance[::-1, ::-1], soften=1), expected[::-1, ::-1])


# ------------------------------------------------------------------------------------------ softening


def soften_by_definition(a, r):
    out = np.empty(a.shape)
    for i, j in np.ndindex(a.shape[:2]):
        out[i, j] = a[max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1].mean(axis=(0, 1))
    return out


@pytest.mark.parametrize("radius", [0, 1, 2, 4, 50, 10**12])
@pytest.mark.parametrize("shape", [(6, 9), (1, 1), (1, 7), (6, 9, 3)], ids=str)
def test_soften_is_the_mean_of_the_neighbours(shape, radius):
    a = RNG.normal(size=shape)
    before = a.copy()
    np.testing.assert_allclose(viz.soften(a, radius), soften_by_definition(a, radius), atol=1e-12)
    np.testing.assert_allclose(viz.soften(np.full(shape, 0.1), radius), 0.1, rtol=1e-14)
    np.testing.assert_array_equal(a, before)


def test_soften_of_flat_rows_is_that_of_their_pictures():
    a = RNG.normal(size=(4, 6, 5))
    np.testing.assert_array_equal(viz.soften(a.reshape(4, 30), shape=(6, 5)).reshape(a.shape), viz.soften(a))


def test_soften_keeps_pictures_of_a_batch_apart():
    a = RNG.normal(size=(3, 6, 9, 2))
    expected = np.stack([soften_by_definition(one, 1) for one in a])
    np.testing.assert_allclose(viz.soften(a), expected, atol=1e-12)


def test_nan_spreads_no_further_than_the_radius():
    a = np.zeros((7, 7))
    a[3, 3] = np.nan
    expected = np.zeros((7, 7), bool)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(np.isnan(viz.soften(a, 1)), expected)


def test_heatmap_softens_the_sum_before_scaling():
    relevance = RNG.normal(size=(6, 9, 3))
    np.testing.assert_allclose(
        viz.heatmap(relevance, "bwr", soften=2),
        viz.heatmap(viz.soften(relevance.sum(-1), 2), "bwr"),
        atol=0.003,
    )


# ------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize(
    ("x", "limits", "expected"),
    [
        ([[-1, 0, 1]], {}, [0, 0.5, 1]),
        ([[0, 51, 255]], {}, [0, 0.2, 1]),
        ([[0, 51, 102]], {"low": 0, "high": 255}, [0, 0.2, 0.4]),
        ([[-1, 0, 3]], {"low": 0, "high": 2}, [0, 0, 1]),
        ([[0, 1, 2]], {"high": 4}, [0, 0.25, 0.5]),
        ([[7, 7, 7]], {}, [0, 0, 0]),
        ([[np.nan, 0, np.inf]], {"high": 2}, [0.5, 0, 1]),
        ([[-np.inf, 0, 2]], {}, [0, 0, 1]),
    ],
)
def test_image_range(x, limits, expected):
    rgb = viz.image(np.array(x, float), **limits)
    np.testing.assert_allclose(rgb, np.repeat(np.reshape(expected, (1, 3, 1)), 3, axis=-1))


def test_images_have_their_own_range_each_and_colours_one_in_common():
    batch = np.stack([np.full((2, 2, 3), 5.0), np.zeros((2, 2, 3))])
    batch[:, 0, 0] = [[1, 2, 3]]
    rgb = viz.image(batch)
    np.testing.assert_allclose(rgb[:, 0, 0], [[0, 0.25, 0.5], [1 / 3, 2 / 3, 1]])
    np.testing.assert_array_equal(viz.image(batch.reshape(2, 12), shape=(2, 2, 3)), rgb)
    assert viz.image(np.zeros((5, 28, 28, 1))).shape == (5, 28, 28, 3)


# ------------------------------------------------------------------------------------------ grids


def test_grid_places_every_picture():
    pictures = [np.full((2, 3), k / 10) for k in range(5)]
    canvas = viz.grid(pictures, columns=2, pad=1, background=1.0)
    assert canvas.shape == (3 * 3 + 1, 2 * 4 + 1, 3)
    for k in range(6):
        top, left = 1 + k // 2 * 3, 1 + k % 2 * 4
        expected = k / 10 if k < 5 else 1.0
        assert (canvas[top : top + 2, left : left + 3] == expected).all()
    assert (canvas[::3] == 1).all() and (canvas[:, ::4] == 1).all()


def test_grid_cells_take_the_largest_size_and_centre_the_others():
    canvas = viz.grid([np.zeros((3, 5)), np.zeros((1, 1, 3))], columns=2, pad=0, background=(1, 0.5, 0))
    assert canvas.shape == (3, 10, 3)
    expected = np.tile([1, 0.5, 0], (3, 5, 1))
    expected[1, 2] = 0
    np.testing.assert_array_equal(canvas[:, 5:], expected)
    assert (canvas[:, :5] == 0).all()


@pytest.mark.parametrize(
    ("images", "cells"),
    [
        (np.zeros((7, 4, 6, 3)), (3, 3)),
        (np.zeros((7, 4, 6)), (3, 3)),
        (np.zeros((7, 4, 6, 1)), (3, 3)),
        (np.zeros((4, 6, 3)), (1, 1)),
        (np.zeros((2, 7, 4, 6, 3)), (2, 7)),
        ([np.zeros((7, 4, 6, 3)), np.zeros((5, 4, 6, 1))], (2, 7)),
        ([[np.zeros((4, 6))], [np.zeros((4, 6))] * 3], (2, 3)),
        (tuple([np.zeros((4, 6))] * 2), (1, 2)),
    ],
    ids=["batch", "grey", "one channel", "one picture", "5-D", "batches", "ragged rows", "tuple"],
)
def test_grid_layout(images, cells):
    assert viz.grid(images).shape == (cells[0] * 6 + 2, cells[1] * 8 + 2, 3)


def test_grid_magnifies_pictures_and_not_the_padding():
    picture = RNG.random((2, 3, 3))
    canvas = viz.grid([picture], pad=1, upscale=4)
    np.testing.assert_array_equal(canvas[1:-1, 1:-1], np.kron(picture, np.ones((4, 4, 1))))
    assert canvas.shape == (10, 14, 3)


# ------------------------------------------------------------------------------------------ filters


@pytest.mark.parametrize(("channels", "count"), [(1, 10), (3, 10), (2, 20)])
def test_perceptron_as_linear_layer_and_as_convolution(channels, count):
    weight = RNG.normal(size=(8, 6, channels, 10))
    conv = SimpleNamespace(
        layers=[SimpleNamespace(), SimpleNamespace(weight=weight)], input_shape=(8, 6, channels)
    )
    flat = SimpleNamespace(weight=weight.reshape(-1, 10))
    linear = SimpleNamespace(layers=[SimpleNamespace(weight=None), flat], input_shape=(8, 6, channels))
    expected = viz.filters(conv)
    assert expected.shape == (count, 8, 6, 3)
    np.testing.assert_array_equal(viz.filters(linear), expected)
    np.testing.assert_array_equal(viz.filters(flat, shape=(8, 6, channels)), expected)


@pytest.mark.parametrize("normalize", ["symmetric", "shared", 1.5])
def test_filters_of_one_channel_are_heatmaps(normalize):
    conv = layer(5, 4, 1, 7)
    expected = viz.heatmap(np.moveaxis(conv.weight[:, :, 0], -1, 0), "firered", normalize=normalize)
    np.testing.assert_array_equal(viz.filters(conv, "firered", normalize=normalize), expected)


def test_filters_of_three_channels_are_rgb_about_grey():
    conv = layer(5, 4, 3, 2)
    conv.weight[0, 0, :, 0] = 0, 10, -10
    rgb = viz.filters(conv)
    np.testing.assert_array_equal(rgb[0, 0, 0], [0.5, 1, 0])
    np.testing.assert_allclose(rgb[0], 0.5 + conv.weight[..., 0] / 20)


def test_filters_of_other_channels_are_a_tile_each_on_one_scale():
    conv = layer(5, 4, 2, 3)
    rows = np.moveaxis(conv.weight, (3, 2), (0, 1))
    expected = [viz.heatmap(row, normalize="shared") for row in rows]
    np.testing.assert_array_equal(viz.filters(conv), np.concatenate(expected))


def test_filters_skip_the_scales_of_a_normalisation():
    net = SimpleNamespace(layers=[layer(3), layer(5, 4, 1, 7), layer(3, 3, 1, 2)])
    np.testing.assert_array_equal(viz.filters(net), viz.filters(net.layers[1]))


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["a.png", "deep/er/b.PNG"])
@pytest.mark.parametrize(
    ("shape", "dtype", "off"),
    [((16, 16), "f4", 0), ((16, 16, 1), "f8", -0.4), ((16, 16, 3), "f4", 0.4)],
    ids=str,
)
def test_save_rounds_to_the_nearest_level(tmp_path, name, shape, dtype, off):
    levels = np.arange(np.prod(shape)).reshape(shape) % 256
    path = viz.save(tmp_path / name, (np.clip(levels + off, 0, 255) / 255).astype(dtype))
    assert path == tmp_path / name and [p.name for p in path.parent.iterdir()] == [path.name]
    with path.open("rb") as file:
        read = matplotlib.image.imread(file, format="png")[..., :3]
    np.testing.assert_array_equal(
        np.rint(read * 255), np.broadcast_to(levels.reshape(16, 16, -1), (16, 16, 3))
    )


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 4, 4, 1), (8, 4, 4)])
def test_save_of_a_batch_says_what_makes_one_picture(tmp_path, shape):
    with pytest.raises(ValueError, match=r"image: expected pictures .*; viz\.grid makes one"):
        viz.save(tmp_path / "a.png", np.zeros(shape))
    assert viz.save(tmp_path / "a.png", viz.grid(np.zeros(shape))).exists()


@pytest.mark.parametrize("shape", [(), (10,)])
def test_save_of_what_is_no_picture_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"image: expected pictures .*\)$"):
        viz.save(tmp_path / "a.png", np.zeros(shape))


def test_save_of_a_bad_kind_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = viz.save(tmp_path / "a.png", np.zeros((2, 2)))
    before = path.read_bytes()

    def half_written(name, *args, **kwargs):
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(matplotlib.image, "imsave", half_written)
    with pytest.raises(OSError, match="disk full"):
        viz.save(path, np.ones((2, 2)))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_pyplot_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    fresh = runpy.run_path(viz.__file__)
    assert fresh["save"](tmp_path / "a.png", fresh["heatmap"]([[0, 1]], "bwr")).stat().st_size


# ------------------------------------------------------------------------------------------ errors

ONE = np.ones((4, 4))
MISUSE = {
    "complex": (lambda: viz.heatmap(ONE * 1j), TypeError, "relevance: .*complex128"),
    "object": (lambda: viz.soften([[None]]), TypeError, "relevance: .*object"),
    "string": (lambda: viz.image("cat"), TypeError, "x: expected an array of real numbers"),
    "ragged": (lambda: viz.heatmap([[1, 2], [3]]), ValueError, "relevance: .*different lengths"),
    "one axis": (lambda: viz.heatmap(np.ones(16)), ValueError, r"relevance: expected \(H, W\).*got \(16,\)"),
    "five axes": (lambda: viz.heatmap(np.ones((1,) * 5)), ValueError, "relevance: expected"),
    "channels first": (
        lambda: viz.heatmap(np.ones((2, 3, 8, 8))),
        ValueError,
        r"relevance: .*last.*\(3, 8, 8\)",
    ),
    "size": (lambda: viz.heatmap(ONE, shape=(3, 5)), ValueError, r"relevance: expected \(3, 5\).*\(4, 4\)"),
    "shape of one": (lambda: viz.heatmap(ONE, shape=(16,)), ValueError, r"shape: expected \(H, W\)"),
    "shape of zero": (lambda: viz.heatmap(ONE, shape=(0, 16)), ValueError, "shape: expected lengths >= 1"),
    "shape, a number": (lambda: viz.heatmap(ONE, shape=16), ValueError, "shape: expected"),
    "colour map": (lambda: viz.heatmap(ONE, "nocolour"), ValueError, 'cmap: .*bluered.*got "nocolour"'),
    "colour map, None": (lambda: viz.heatmap(ONE, None), TypeError, "cmap: expected a name, got NoneType"),
    "scale": (lambda: viz.heatmap(ONE, normalize="max"), ValueError, 'normalize: .*"symmetric".*got "max"'),
    "scale of 0": (
        lambda: viz.heatmap(ONE, normalize=0),
        ValueError,
        "normalize: expected a scale > 0, got 0",
    ),
    "scale of nan": (lambda: viz.heatmap(ONE, normalize=np.nan), ValueError, "normalize: expected a finite"),
    "scale beyond floats": (
        lambda: viz.heatmap(ONE, normalize=10**400),
        ValueError,
        "normalize: expected a number that a float can hold",
    ),
    "scale, a truth": (lambda: viz.heatmap(ONE, normalize=True), TypeError, "normalize: .*got bool"),
    "scale, complex": (lambda: viz.heatmap(ONE, normalize=np.complex128(1j)), TypeError, "normalize: "),
    "scale, None": (lambda: viz.heatmap(ONE, normalize=None), TypeError, "normalize: .*got NoneType"),
    "soften": (lambda: viz.heatmap(ONE, soften=-1), ValueError, "soften: expected an integer >= 0, got -1"),
    "radius": (lambda: viz.soften(ONE, 1.5), TypeError, "radius: expected an integer >= 0, got float"),
    "two channels": (
        lambda: viz.image(np.ones((1, 4, 4, 2))),
        ValueError,
        "x: expected 1 or 3 channels, got 2",
    ),
    "limits": (lambda: viz.image(ONE, 1, 1), ValueError, "high: expected more than low, 1, got 1"),
    "limit": (lambda: viz.image(ONE, low="0"), TypeError, "low: expected a real number, got str"),
    "no pictures": (lambda: viz.grid([]), ValueError, "images: expected at least one picture"),
    "no pictures in rows": (lambda: viz.grid([[], []]), ValueError, "images: expected at least one picture"),
    "rows, columns": (lambda: viz.grid([[ONE]], columns=1), ValueError, "images: .*no columns"),
    "row, picture": (lambda: viz.grid([[ONE], ONE]), ValueError, "images: .*rows alone"),
    "no list": (lambda: viz.grid(None), TypeError, "images: expected an array or a list, got NoneType"),
    "above 1": (lambda: viz.grid([ONE * 255]), ValueError, r"images: expected values in \[0, 1\].*255"),
    "nan": (lambda: viz.grid([ONE * np.nan]), ValueError, "images: .*nan"),
    "RGBA": (lambda: viz.grid([np.ones((4, 4, 4))]), ValueError, r"images: .*got \(4, 4, 4\)"),
    "columns": (lambda: viz.grid([ONE], columns=0), ValueError, "columns: expected an integer >= 1"),
    "pad": (lambda: viz.grid([ONE], pad=-1), ValueError, "pad: expected an integer >= 0"),
    "upscale": (lambda: viz.grid([ONE], upscale=2.0), TypeError, "upscale: expected an integer >= 1"),
    "background": (lambda: viz.grid([ONE], background=(1, 2, 0)), ValueError, "background: .*got"),
    "background, name": (lambda: viz.grid([ONE], background="red"), TypeError, "background: "),
    "batch": (lambda: viz.save("a.png", np.ones((2, 4, 4, 3))), ValueError, r"image: .*got \(2, 4, 4, 3\)"),
    "empty": (lambda: viz.save("a.png", np.ones((0, 4))), ValueError, r"image: .*got \(0, 4\)"),
    "no weights": (
        lambda: viz.filters(SimpleNamespace(layers=[])),
        ValueError,
        "net: expected a layer with weights",
    ),
    "1-D filters": (lambda: viz.filters(layer(5, 1, 2)), ValueError, r"net: expected weights .*\(5, 1, 2\)"),
    "no shape": (lambda: viz.filters(layer(16, 2)), ValueError, r"shape: expected \(H, W\).*got None"),
    "other shape": (lambda: viz.filters(layer(16, 2), shape=(4, 5)), ValueError, "shape: .*16 entries"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse(case):
    call, error, message = MISUSE[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["a.unknown", "a"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(ValueError, match="path: expected the suffix"):
        viz.save(tmp_path / name, ONE)
    assert not list(tmp_path.iterdir())


def test_channels_first_inputs_of_a_linear_layer_are_refused():
    net = SimpleNamespace(layers=[layer(64, 2)], input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="shape: expected channels last"):
        viz.filters(net)
    assert viz.filters(net, shape=(8, 8)).shape == (2, 8, 8, 3)
