"""Images are laid out, written and reconstructed to the pixel; latents are drawn as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffeo import figures
from diffeo.bases import Base, Logistic, Normal
from diffeo.bijections.dequantization import PixelDequantize
from diffeo.data.images.writing import PAPER
from diffeo.models.image_realnvp import ImageRealNVP
from diffeo.models.tables import RealNVP

SHAPE = (1, 8, 8)


def _images(n: int = 20, channels: int = 1, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(n + channels)
    shape = (n, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _ready(flow: ImageRealNVP, x: Tensor, context: Tensor | None = None) -> ImageRealNVP:
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(torch.nn.init.normal_(torch.empty_like(weight), std=0.05))
    return flow.initialize(x, context).eval()


@pytest.fixture
def flow() -> ImageRealNVP:
    return _ready(ImageRealNVP(SHAPE, scales=2, hidden_channels=8, blocks=1), _images(200))


class Careless(ImageRealNVP):
    """Its decode gets one pixel of every third image wrong, by one grey level."""

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x = super().decode(z, context).clone()
        x[::3, 0, 0, 0] ^= 1
        return x


class Diverged(RealNVP):
    """Its first latents are not finite."""

    def encode(self, x: Tensor, context: Tensor | None = None, **noise: Any) -> Tensor:
        z = super().encode(x, context, **noise).clone()
        z[0, 0], z[1, 0], z[2, 1] = torch.nan, torch.inf, -torch.inf
        return z


def _open(path: Path) -> tuple[str, NDArray[np.uint8]]:
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def _words(figure: Figure) -> list[str]:
    return [text.get_text().strip() for text in figure.texts]


def _shown(figure: Figure) -> NDArray[np.uint8]:
    """The sheet of a figure of reconstructions."""
    return np.asarray(figure.axes[0].images[0].get_array())


def _bars(axes: Axes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heights and edges of a histogram."""
    data = axes.patches[0].get_data()  # type: ignore[attr-defined]
    return np.asarray(data.values), np.asarray(data.edges)


# Sheets ---------------------------------------------------------------------------------------


def test_each_image_stands_in_its_place_enlarged_and_apart() -> None:
    x = _images(7, 3, height=2, width=3)
    canvas = figures.tile(x, 3, gap=5, smallest=100)
    # Three rows of 2 pixels and three columns of 3: 100 takes columns of 10 times the size.
    assert canvas.shape == (3 * 20 + 2 * 5, 3 * 30 + 2 * 5, 3)
    assert canvas.dtype == np.uint8
    seen = np.zeros(canvas.shape[:2], bool)
    for k, image in enumerate(x.permute(0, 2, 3, 1).numpy()):
        top, left = k // 3 * 25, k % 3 * 35
        large = np.kron(image, np.ones((10, 10, 1), np.uint8))
        np.testing.assert_array_equal(canvas[top : top + 20, left : left + 30], large)
        seen[top : top + 20, left : left + 30] = True
    assert (~seen).sum() == seen.size - 7 * 600
    assert (canvas[~seen] == PAPER).all()
    assert min(PAPER) > 220


@pytest.mark.parametrize(
    ("n", "height", "width", "columns"),
    [(1, 8, 8, 1), (2, 8, 8, 2), (9, 8, 8, 3), (10, 8, 8, 4), (23, 8, 8, 5), (5, 16, 8, 3)],
)
def test_grids_are_nearly_square(n: int, height: int, width: int, columns: int) -> None:
    rows = -(-n // columns)
    canvas = figures.tile(_images(n, 1, height, width), gap=0, smallest=1)
    assert canvas.shape == (rows * height, columns * width, 3)


@pytest.mark.parametrize("smallest", [1, 40, 41, 512, 513])
@pytest.mark.parametrize("columns", [1, 3, 5])
def test_enlargement_is_the_least_that_suffices(smallest: int, columns: int) -> None:
    x = _images(5, 1, 6, 4)
    height, width, _ = figures.tile(x, columns, gap=1, smallest=smallest).shape
    rows = -(-5 // columns)
    scale = (height - (rows - 1)) // (rows * 6)
    assert (height, width) == (rows * 6 * scale + rows - 1, columns * 4 * scale + columns - 1)
    assert max(height, width) >= smallest
    if scale > 1:
        less = scale - 1
        sides = rows * 6 * less + rows - 1, columns * 4 * less + columns - 1
        assert max(sides) < smallest


def test_large_images_are_never_shrunk_and_more_columns_than_images_stay_blank() -> None:
    x = _images(2, 3, 40, 40)
    canvas = figures.tile(x, 4, smallest=50)
    assert canvas.shape == (40, 4 * 40 + 3 * 2, 3)
    np.testing.assert_array_equal(canvas[:, 42:82], x[1].permute(1, 2, 0))
    assert (canvas[:, 82:] == PAPER).all()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_channel_is_grey(channels: int) -> None:
    x = _images(1, channels)
    canvas = figures.tile(x, smallest=1)
    for colour in range(3):
        np.testing.assert_array_equal(canvas[..., colour], x[0, 0])


def test_transparent_images_lie_on_white() -> None:
    x = _images(1, 4)
    x[0, 3, 0], x[0, 3, 1] = 0, 255
    canvas = figures.tile(x, smallest=1)
    assert (canvas[0] == 255).all()
    np.testing.assert_array_equal(canvas[1], x[0, :3, 1].T)
    share = x[0, 3].double() / 255
    expected = (x[0, :3] * share + 255 * (1 - share)).round().permute(1, 2, 0)
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize("name", ["canvas.png", "canvas.WEBP"])
def test_a_saved_grid_is_the_grid(tmp_path: Path, name: str) -> None:
    x = _images(6, 3)
    figures.save_images(x, tmp_path / "new" / name, 2)
    mode, pixels = _open(tmp_path / "new" / name)
    assert mode == "RGB"
    np.testing.assert_array_equal(pixels, figures.tile(x, 2))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_saved_jpeg_is_nearly_the_grid(tmp_path: Path) -> None:
    x = _images(6, 3)
    for name in ("sheet.jpg", "sheet.jpeg"):
        figures.save_images(x, str(tmp_path / name))
        _, pixels = _open(tmp_path / name)
        assert pixels.shape == (figures.tile(x)).shape
        assert np.abs(pixels.astype(int) - figures.tile(x)).mean() < 5


def test_a_grid_that_cannot_be_saved_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sheet.png"
    figures.save_images(_images(3), path)
    before = path.read_bytes()
    _break_saving(monkeypatch, after=0)
    with pytest.raises(OSError, match="disk is full"):
        figures.save_images(_images(4), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _break_saving(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk is full, halfway through a file, after so many of them."""
    save, done = Image.Image.save, []

    def broken(self: Image.Image, path: Path, **options: Any) -> None:
        if len(done) == after:
            Path(path).write_bytes(b"half a pic")
            raise OSError("disk is full")
        done.append(path)
        save(self, path, **options)

    monkeypatch.setattr(Image.Image, "save", broken)


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_images_come_back_from_their_files_bit_for_bit(
    tmp_path: Path, channels: int, mode: str
) -> None:
    x = _images(12, channels, 5, 7)
    folder = tmp_path / "a" / "b"
    # Batches of any size, an empty one among them, and none with memory in order.
    batches = [x[:5], x[5:5], x[5:].flip(3).flip(3), _images(1, channels, 3, 2)]
    assert figures.write_images(iter(batches), folder) == 13
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"{i:05d}.png" for i in range(13)]
    for path, image in zip(paths, x, strict=False):
        found, pixels = _open(path)
        assert found == mode
        restored = pixels.reshape(5, 7, channels)
        np.testing.assert_array_equal(restored, image.permute(1, 2, 0))
    assert _open(paths[-1])[1].shape[:2] == (3, 2)


def test_images_are_written_as_they_come(tmp_path: Path) -> None:
    def batches() -> Iterator[Tensor]:
        for i in range(4):
            assert len(list(tmp_path.iterdir())) == 3 * i
            yield _images(3)

    assert figures.write_images(batches(), str(tmp_path)) == 12


def test_no_images_make_an_empty_folder(tmp_path: Path) -> None:
    assert figures.write_images([], tmp_path / "none") == 0
    assert list((tmp_path / "none").iterdir()) == []


def test_no_file_holds_half_a_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = _images(5)
    _break_saving(monkeypatch, after=3)
    with pytest.raises(OSError, match="disk is full"):
        figures.write_images([x], tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["00000.png", "00001.png", "00002.png"]
    for path, image in zip(paths, x, strict=False):
        np.testing.assert_array_equal(_open(path)[1], image[0])


def test_a_folder_with_files_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    def batches() -> Iterator[Tensor]:
        pytest.fail("an image was asked for")
        yield _images(1)

    with pytest.raises(ValueError, match="already holds files: name another folder, or empty"):
        figures.write_images(batches(), tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt is a file: name a folder"):
        figures.write_images(batches(), tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


# Reconstructions ------------------------------------------------------------------------------


def _columns(
    canvas: NDArray[np.uint8], rows: int, columns: int, size: int = 8, scale: int = 14
) -> NDArray[np.uint8]:
    """The first channel of images in a grid: `(columns, rows, size, size)`."""
    step = size * scale + 4
    assert canvas.shape == (rows * step - 4, columns * step - 4, 3)
    cells = [
        [
            canvas[r * step :, c * step :, 0][: size * scale : scale, : size * scale : scale]
            for r in range(rows)
        ]
        for c in range(columns)
    ]
    return np.array(cells)


def test_reconstructions_are_the_data_the_decoded_and_what_the_last_level_keeps(
    flow: ImageRealNVP,
) -> None:
    x = _images(6)
    figure = figures.reconstructions(flow, x)
    rows = _columns(_shown(figure), 6, 3)
    np.testing.assert_array_equal(rows[0], x[:, 0])
    with torch.no_grad():
        z = flow.encode(x)
        first, last = flow.split_latents(z)
        np.testing.assert_array_equal(rows[1], flow.decode(z)[:, 0])
        coarse = torch.cat([torch.zeros_like(first).flatten(1), last.flatten(1)], dim=1)
        np.testing.assert_array_equal(rows[2], flow.decode(coarse)[:, 0])
    assert not np.array_equal(rows[1], rows[2])
    assert _words(figure) == [
        "data",
        "decoded",
        "50 % of z",
        "level 2",
        "6 of 6 images come back bit for bit",
    ]


def test_levels_go_one_after_the_other() -> None:
    x = _images(30, 1, 16, 16)
    flow = _ready(ImageRealNVP((1, 16, 16), scales=4, hidden_channels=4, blocks=1), x)
    figure = figures.reconstructions(flow, x[:2])
    assert _words(figure)[:-1] == [
        "data",
        "decoded",
        "50 % of z",
        "levels 2\N{EN DASH}4",
        "25 % of z",
        "levels 3\N{EN DASH}4",
        "12.5 % of z",
        "level 4",
    ]
    last = _columns(_shown(figure), 2, 5, 16, 8)[4]
    with torch.no_grad():
        z = flow.encode(x[:2])
        z[:, :-32] = 0  # all but the last level, of 16 * 16 / 8 numbers
        np.testing.assert_array_equal(last, flow.decode(z)[:, 0])


def test_all_images_are_counted_and_eight_are_drawn() -> None:
    x = _images(25)
    flow = _ready(Careless(SHAPE, scales=1, hidden_channels=8, blocks=1), x)
    figure = figures.reconstructions(flow, x)
    rows = _columns(_shown(figure), 8, 2)
    np.testing.assert_array_equal(rows[0], x[:8, 0])
    same = (rows[0] == rows[1]).all(axis=(1, 2))
    assert same.tolist() == [i % 3 != 0 for i in range(8)]
    caption = "16 of 25 images come back bit for bit; the first 8 are drawn"
    assert _words(figure) == ["data", "decoded", caption]


def test_fewer_bits_are_compared_with_what_they_keep() -> None:
    x = _images(20)
    flow = _ready(ImageRealNVP(SHAPE, 2, hidden_channels=8, blocks=1, bits=3), x)
    figure = figures.reconstructions(flow, x[:4])
    rows = _columns(_shown(figure), 4, 3)
    np.testing.assert_array_equal(rows[0], x[:4, 0])
    np.testing.assert_array_equal(rows[1], x[:4, 0] & 0b11100000)
    assert _words(figure)[-1] == (
        "4 of 4 images come back bit for bit, in the bits that the flow models"
    )


def test_each_image_is_decoded_with_its_own_context() -> None:
    x, context = _images(30), torch.randn(30, 2)
    flow = ImageRealNVP(SHAPE, 2, hidden_channels=8, blocks=1, context=2)
    flow = _ready(flow, x, context)
    figure = figures.reconstructions(flow, x, context)
    assert _words(figure)[-1].startswith("30 of 30")
    with torch.no_grad():
        z = flow.encode(x, context)
        z[:, :32] = 0
        expected = flow.decode(z, context)[:8, 0]
    np.testing.assert_array_equal(_columns(_shown(figure), 8, 3)[2], expected)
    assert len(figures.latent_histograms(flow, x, context).axes) == 2


@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_saved_reconstruction_has_whole_pixels_and_whole_words(
    flow: ImageRealNVP, tmp_path: Path, n: int
) -> None:
    figure = figures.reconstructions(flow, _images(n))
    figures.save(figure, tmp_path / "figure.png")
    _, pixels = _open(tmp_path / "figure.png")
    canvas = _shown(figure)
    tall, wide = canvas.shape[:2]
    top = len(pixels) - 50 - tall
    np.testing.assert_array_equal(pixels[top : top + tall, 24 : 24 + wide, :3], canvas)
    rest = pixels[..., :3].copy()
    rest[top : top + tall, 24 : 24 + wide] = 255
    inked = np.argwhere((rest < 200).any(axis=2))
    assert len(inked) > 500
    assert inked.min() >= 12
    assert (inked.max(axis=0) < np.array(pixels.shape[:2]) - 8).all()


def test_large_and_flat_images_make_no_huge_figure_and_leave_room_for_labels() -> None:
    for height, width, drawn, scale in ((256, 256, 5, 1), (32, 4, 8, 20)):
        x = _images(9, 1, height, width)
        flow = _ready(ImageRealNVP((1, height, width), 1, hidden_channels=2, blocks=1), x)
        figure = figures.reconstructions(flow, x)
        tall, wide = _shown(figure).shape[:2]
        assert (tall, wide) == (drawn * (height * scale + 4) - 4, 2 * width * scale + 4)
        assert _words(figure)[-1].endswith(f"the first {drawn} are drawn")


# Latents --------------------------------------------------------------------------------------


def test_histograms_are_those_of_each_level(flow: ImageRealNVP) -> None:
    x = _images(50)
    figure = figures.latent_histograms(flow, x)
    with torch.no_grad():
        noise = torch.Generator().manual_seed(0)
        levels = flow.split_latents(flow.encode(x, generator=noise))
    assert len(figure.axes) == 2
    for i, (axes, level) in enumerate(zip(figure.axes, levels, strict=True), start=1):
        heights, edges = _bars(axes)
        values = level.double().numpy().ravel()
        assert (heights * np.diff(edges)).sum() == pytest.approx(1)
        np.testing.assert_allclose(heights, np.histogram(values, edges, density=True)[0])
        assert axes.get_xlim() == (edges[0], edges[-1])
        assert axes.get_ylim()[1] > heights.max()
        moments = f"mean {values.mean():z.3f}, std {values.std():z.3f}".replace("-", "\u2212")
        assert axes.get_title("left") == f"level {i}: 2 x 4 x 4\n{moments}"
    assert "50 encoded events" in _words(figure)[0]


@pytest.mark.parametrize("base", [Normal(), Logistic()])
def test_the_line_is_the_base_density(base: Base) -> None:
    flow = RealNVP(3, layers=2, hidden=(8,), base=base)
    axes = figures.latent_histograms(flow, torch.randn(100, 3)).axes[0]
    z, density = (np.asarray(values) for values in axes.lines[0].get_data())
    one = torch.distributions.Normal(0.0, 1.0)
    logistic = torch.sigmoid(torch.tensor(z)) * torch.sigmoid(-torch.tensor(z))
    expected = one.log_prob(torch.tensor(z)).exp() if isinstance(base, Normal) else logistic
    np.testing.assert_allclose(density, expected, rtol=1e-6)
    area = (np.diff(z) * (density[1:] + density[:-1]) / 2).sum()
    assert area == pytest.approx(1, abs=2e-3)
    assert axes.get_title("left").startswith("level 1: 3 numbers\nmean ")


@pytest.mark.parametrize(("scales", "across"), [(2, 2), (4, 4), (5, 3)])
def test_at_most_four_panels_stand_in_a_row(scales: int, across: int) -> None:
    x = _images(8, 1, 32, 32)
    flow = _ready(ImageRealNVP((1, 32, 32), scales, hidden_channels=2, blocks=1), x)
    panels = figures.latent_histograms(flow, x).axes
    assert len(panels) == scales
    lefts = {round(axes.get_position().x0, 6) for axes in panels}
    assert len(lefts) == across
    boxes = [axes.get_position() for axes in panels]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(axes.get_xlabel() == "z" for axes in panels[-across:])


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    x = torch.randn(40, 2)
    flow = Diverged(2, layers=2, hidden=(8,)).initialize(x)
    axes = figures.latent_histograms(flow, x).axes[0]
    heights, edges = _bars(axes)
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    assert axes.texts[0].get_text() == "3 not finite"
    with torch.no_grad():
        z = flow.encode(x)
    z = z[z.isfinite()]
    assert len(z) == 77
    assert f"std {z.std(correction=0):.3f}" in axes.get_title("left")


def test_values_far_out_do_not_squeeze_the_rest() -> None:
    x = torch.randn(1_000, 2)
    x[:3] = 1e7
    flow = RealNVP(2, layers=2, hidden=(8,))
    axes = figures.latent_histograms(flow.eval(), x).axes[0]
    heights, edges = _bars(axes)
    assert edges[-1] == 4
    with torch.no_grad():
        inside = (flow.encode(x).abs() <= 4).sum().item()
    assert inside < 2_000
    assert axes.texts[0].get_text() == f"{2_000 - inside:,} beyond"
    assert (heights * np.diff(edges)).sum() == pytest.approx(inside / 2_000)


def test_wide_latents_are_visible_under_the_line() -> None:
    flow = RealNVP(2, layers=2, hidden=(8,)).eval()
    axes = figures.latent_histograms(flow, 1_000 * torch.randn(1_000, 2)).axes[0]
    heights, _ = _bars(axes)
    assert heights.max() / axes.get_ylim()[1] > 0.3
    assert max(axes.lines[0].get_ydata()) == pytest.approx(0.399, abs=1e-3)


@pytest.mark.parametrize("fill", [torch.nan, 0.0, 1e38, -1e200])
def test_odd_latents_are_drawn_without_a_warning(tmp_path: Path, fill: float) -> None:
    dtype = torch.float64 if abs(fill) > 1e100 else torch.float32
    flow = RealNVP(2, layers=2, hidden=(8,)).to(dtype).eval()
    x = torch.full((3, 2), fill, dtype=dtype)
    figure = figures.latent_histograms(flow, x)
    figures.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1_000
    if fill != fill:
        assert "no finite value" in figure.axes[0].get_title("left")
        assert figure.axes[0].texts[0].get_text() == "6 not finite"


# Both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_drawing_changes_nothing(flow: ImageRealNVP, training: bool) -> None:
    flow.train(training)
    x, before, settings = _images(), torch.get_rng_state(), dict(matplotlib.rcParams)
    pixels = x.clone()
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    assert _words(figures.reconstructions(flow, x))[-1].startswith("20 of 20")
    figures.latent_histograms(flow, x)
    assert torch.equal(x, pixels)
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(matplotlib.rcParams) == settings
    assert flow.training == training
    assert torch.is_grad_enabled()
    for name, value in flow.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (2, 0, 8, 8), (2, 1, 0, 8)])
def test_what_has_not_the_shape_of_images_is_refused(
    flow: ImageRealNVP, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    x = torch.zeros(shape, dtype=torch.uint8)
    match = r"expected images of shape \(n, C, H, W\), got \("
    with pytest.raises(ValueError, match=match):
        figures.tile(x)
    with pytest.raises(ValueError, match=match):
        figures.save_images(x, tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=match):
        figures.write_images([x], tmp_path / "folder")
    with pytest.raises(ValueError, match=match):
        figures.reconstructions(flow, x)
    assert not (tmp_path / "sheet.png").exists()


def test_what_is_not_8_bit_or_empty_is_refused(flow: ImageRealNVP, tmp_path: Path) -> None:
    x, none = _images(2), _images(0)
    match = r"images are torch\.float32: pass them as torch\.uint8, 0 to 255"
    for call in (
        lambda: figures.tile(x / 255),
        lambda: figures.write_images([x / 255], tmp_path / "folder"),
        lambda: figures.reconstructions(flow, x / 255),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(ValueError, match="no images to lay out: pass at least one"):
        figures.tile(none)
    with pytest.raises(ValueError, match="no images to encode: pass at least one"):
        figures.reconstructions(flow, none)
    with pytest.raises(ValueError, match="x is empty: pass at least one event"):
        figures.latent_histograms(flow, none)
    with pytest.raises(ValueError, match=r"columns and gap are 0 and 2: pass at least 1 and 0"):
        figures.tile(x, 0)
    with pytest.raises(ValueError, match=r"columns and gap are 1 and -1: pass at least 1 and 0"):
        figures.tile(x, 1, gap=-1)
    for name in ("sheet.svg", "sheet", "sheet.gif"):
        with pytest.raises(ValueError, match=rf"{name} cannot be written: end its name in \.png"):
            figures.save_images(x, name)
    with pytest.raises(ValueError, match=r"2 channels fit no PNG: pass 1 \(grey\), 3 \(RGB\)"):
        figures.write_images([_images(2, 2)], tmp_path / "folder")
    assert list(tmp_path.rglob("*.*")) == []


def test_flows_that_take_other_data_are_refused(flow: ImageRealNVP) -> None:
    assert isinstance(flow.dequantizer, PixelDequantize)
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 1, 8, 8\)"):
        figures.reconstructions(flow, _images(2, 3))
    with pytest.raises(ValueError, match="this flow takes no 8-bit images: pass an image flow"):
        figures.reconstructions(RealNVP(2, layers=2, hidden=(8,)), _images())
    with pytest.raises(ValueError, match="takes no context"):
        figures.latent_histograms(flow, _images(2), torch.zeros(2, 1))
