"""The figures hold what they claim to, and leave nothing behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Generator, Tensor

from diffeo import figures
from diffeo.bases import Logistic
from diffeo.models.tables import RealNVP

COLUMNS = ("x0", "x1")


def _source() -> Generator:
    return torch.Generator().manual_seed(0)


def _points(rows: int = 500, columns: int = 2) -> Tensor:
    return torch.randn(rows, columns, generator=_source()) * 2 + 5


@pytest.fixture
def flow() -> RealNVP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RealNVP(2, layers=2, hidden=(8,)).initialize(_points())


class Broken(RealNVP):
    """Its decode and its log_prob fail for one row in two."""

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x = super().decode(z, context).clone()
        x[::2] = torch.nan
        return x

    def log_prob(self, x: Tensor, *args: object, **options: object) -> Tensor:
        log_prob = super().log_prob(x, *args, **options).clone()  # type: ignore[arg-type]
        log_prob[::2] = torch.inf
        return log_prob


def _drawn(axes: Axes) -> NDArray[np.float64]:
    """The points of the panel's first scatter."""
    return np.asarray(axes.collections[0].get_offsets(), np.float64)


def _looks_drawn(path: Path) -> bool:
    with Image.open(path) as image:
        return float(np.asarray(image.convert("L")).std()) > 5


def _draw_all(flow: RealNVP, x: Tensor) -> dict[str, Figure]:
    return {
        "four_panels": figures.four_panels(flow, x, generator=_source(), title="$ a title"),
        "density_map": figures.density_map(flow, x),
        "latent_grid": figures.latent_grid(flow, x, columns=("a$b$", "c" * 90)),
        "corner": figures.corner(x, x + 0.1, COLUMNS),
        "training_curve": figures.training_curve([1.0, 2.0], [9.0, 1.0], [8.0, 2.0], floor=0.5),
    }


@pytest.mark.parametrize("training", [True, False])
def test_every_figure_is_drawn_and_nothing_else_changes(
    flow: RealNVP, tmp_path: Path, training: bool
) -> None:
    flow.train(training)
    flow.bijection.eval()  # a part with a mode of its own keeps it
    before, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    for name, figure in _draw_all(flow, _points()).items():
        figures.save(figure, tmp_path / "new" / f"{name}.png")
        assert _looks_drawn(tmp_path / "new" / f"{name}.png")
    assert len(list((tmp_path / "new").iterdir())) == 5
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(matplotlib.rcParams) == settings
    assert (flow.training, flow.bijection.training) == (training, False)
    assert torch.is_grad_enabled()
    for name, value in flow.state_dict().items():
        assert torch.equal(value, state[name])


def test_threads_leave_the_settings_alone(flow: RealNVP) -> None:
    settings = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: figures.density_map(flow, _points()), range(8)))
    assert dict(matplotlib.rcParams) == settings


def test_four_panels_shares_axes_and_thins_the_points(flow: RealNVP) -> None:
    x = _points(5_000)
    figure = figures.four_panels(flow, x, generator=_source())
    data, encoded, noise, decoded = figure.axes
    for axes in figure.axes:
        assert len(_drawn(axes)) == 2_000
    assert encoded.get_xlim() == noise.get_ylim() == (-3.5, 3.5)
    assert data.get_xlim() == decoded.get_xlim()
    low, high = data.get_xlim()
    shown = _drawn(data)
    assert ((shown[:, 0] > low) & (shown[:, 0] < high)).mean() > 0.998
    assert np.ptp(data.get_xlim()) == pytest.approx(np.ptp(data.get_ylim()))
    z = _drawn(noise).astype(np.float32)
    again = figures.four_panels(flow, x, generator=_source())
    np.testing.assert_array_equal(_drawn(noise), _drawn(again.axes[2]))
    expected = flow.eval().decode(torch.tensor(z)).detach()
    np.testing.assert_allclose(_drawn(decoded), expected, rtol=1e-4, atol=1e-4)


def test_logistic_base_has_its_own_reach() -> None:
    flow = RealNVP(2, layers=2, hidden=(8,), base=Logistic()).initialize(_points())
    noise = figures.four_panels(flow, _points(2_000), generator=_source()).axes[2]
    spread = _drawn(noise).std()
    assert noise.get_xlim() == (-6.5, 6.5)
    assert spread == pytest.approx(np.pi / 3**0.5, rel=0.1)


def test_a_row_keeps_its_colour(flow: RealNVP) -> None:
    panels = figures.four_panels(flow, _points(), generator=_source()).axes
    colors = [panel.collections[0].get_array() for panel in panels]
    np.testing.assert_array_equal(colors[0], colors[1])
    np.testing.assert_array_equal(colors[2], colors[3])


def test_columns_of_very_different_scales_fill_the_panel(flow: RealNVP) -> None:
    x = _points() * torch.tensor([1.0, 1000.0])
    axes = figures.four_panels(flow, x, generator=_source()).axes[0]
    assert np.ptp(axes.get_ylim()) > 500 * np.ptp(axes.get_xlim())


def test_density_map_is_the_density(flow: RealNVP) -> None:
    axes = figures.density_map(flow, _points()).axes[0]
    density = np.asarray(axes.images[0].get_array())
    x0, x1, y0, y1 = axes.images[0].get_extent()
    cell = (x1 - x0) * (y1 - y0) / density.size
    assert density.sum() * cell == pytest.approx(1, abs=0.1)
    column = x0 + (x1 - x0) * 10.5 / density.shape[1]
    row = y0 + (y1 - y0) * 70.5 / density.shape[0]
    expected = flow.eval().log_prob(torch.tensor([[column, row]])).exp().item()
    assert density[70, 10] == pytest.approx(expected, rel=1e-3)


def test_what_is_not_finite_is_left_out_and_counted(tmp_path: Path) -> None:
    flow = Broken(2, layers=2, hidden=(8,)).initialize(_points())
    x = _points(400)
    x[0, 0] = torch.nan
    figure = figures.four_panels(flow, x, generator=_source())
    counts = [axes.get_title("right") for axes in figure.axes]
    assert counts == ["1 not finite", "1 not finite", "", "200 not finite"]
    assert len(_drawn(figure.axes[3])) == 200
    grid = figures.latent_grid(flow, x)
    assert "not finite" in grid.axes[0].get_title("right")
    lines = next(c for c in grid.axes[1].collections if isinstance(c, LineCollection))
    assert len(lines.get_segments()) == 22 * 720
    density = figures.density_map(flow, x)
    assert density.axes[0].get_title("right") == "28,800 not finite"
    samples = _points(300)
    samples[:7] = torch.inf
    corner = figures.corner(x, samples, COLUMNS)
    assert "7 not finite" in corner.legends[0].get_texts()[1].get_text()
    for drawn in (figure, grid, density, corner):
        figures.save(drawn, tmp_path / "figure.png")
        assert _looks_drawn(tmp_path / "figure.png")


def test_conditional_flow_uses_the_mean_context_and_says_so() -> None:
    x, context = _points(), torch.rand(500, 3, generator=_source())
    flow = RealNVP(2, layers=2, hidden=(8,), context=3).initialize(x, context)
    figures.four_panels(flow, x, context, generator=_source())
    for draw in (figures.density_map, figures.latent_grid):
        assert "mean context" in draw(flow, x, context).axes[0].get_title("left")


def test_density_of_rounded_columns_draws_from_no_global_source() -> None:
    x = _points().round()
    flow = RealNVP(2, layers=2, hidden=(8,), steps=(1.0, 1.0)).initialize(x)
    before = torch.get_rng_state()
    first, second = (figures.density_map(flow, x).axes[0].images[0].get_array() for _ in "ab")
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("columns", "panels"), [(1, 1), (2, 3), (5, 15), (11, 36)])
def test_corner_has_a_triangle_of_at_most_eight(columns: int, panels: int) -> None:
    x = _points(300, columns)
    x[0, 0] = 1e6  # one outlier must not squeeze the rest
    names = [f"a rather long name of column {i}" for i in range(columns)]
    figure = figures.corner(x, _points(200, columns), names)
    assert len(figure.axes) == panels
    assert np.ptp(figure.axes[0].get_xlim()) < 50
    assert any("first 8 of 11" in text.get_text() for text in figure.texts) == (columns == 11)
    assert all(len(axes.get_xlabel()) <= 16 for axes in figure.axes)


def test_corner_survives_constant_columns_and_samples_far_away(tmp_path: Path) -> None:
    x = torch.stack([torch.full((50,), 3.0), torch.arange(50.0)], dim=1)
    figures.save(figures.corner(x, x + 1e4, COLUMNS), tmp_path / "corner.png")
    assert _looks_drawn(tmp_path / "corner.png")


def test_training_curve_is_not_flattened_by_its_start() -> None:
    epochs = [float(epoch) for epoch in range(1, 101)]
    nll = [1e4, *(1 + 1 / epoch for epoch in epochs[1:])]
    validation = [
        float("nan") if epoch % 2 else value for epoch, value in zip(epochs, nll, strict=True)
    ]
    axes = figures.training_curve(epochs, nll, validation, floor=1.0).axes[0]
    low, high = axes.get_ylim()
    assert 0.8 < low < 1
    assert 1.05 < high < 2
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["train", "validation", "best: 1.01 at epoch 100", "floor: 1"]


def test_animation_has_one_size_all_frames_and_a_long_last_one(tmp_path: Path) -> None:
    frames = []
    for i in range(5):
        image = np.full((40, 60, 3), 255, np.uint8)
        image[:, 10 * i : 10 * i + 10] = (200, 40 * i, 30)
        frames.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(frames[-1])
    figures.animate(frames, tmp_path / "new" / "out.gif", milliseconds=100)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.gif"]
    durations = []
    with Image.open(tmp_path / "new" / "out.gif") as gif:
        assert gif.size == (60, 40)
        for frame in ImageSequence.Iterator(gif):
            durations.append(frame.info["duration"])
            assert frame.convert("RGB").getpixel((59, 0)) == (255, 255, 255)
    assert durations == [100] * 4 + [2_000]


def test_animation_refuses_nothing_and_mixed_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        figures.animate([], tmp_path / "out.gif")
    for name, size in (("a.png", (4, 4)), ("b.png", (5, 4))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(ValueError, match="one size"):
        figures.animate([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out.gif")
    assert not (tmp_path / "out.gif").exists()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_text("old")
    figure = figures.training_curve([1.0, 2.0], [2.0, 1.0], [2.0, 1.0])
    figure.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        figures.save(figure, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(10, 3), (10, 1), (10,), (0, 2)])
def test_odd_shapes_are_refused(flow: RealNVP, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"expected x of shape \(rows, 2\)|no row"):
        figures.four_panels(flow, x, generator=_source())
    for draw in (figures.density_map, figures.latent_grid):
        with pytest.raises(ValueError, match=r"expected x of shape \(rows, 2\)|no row"):
            draw(flow, x)


def test_tables_that_do_not_match_are_refused() -> None:
    x = _points(10, 3)
    with pytest.raises(ValueError, match="2 column names were given for 3"):
        figures.corner(x, x, COLUMNS)
    with pytest.raises(ValueError, match="expected samples of shape"):
        figures.corner(x, x[:, :2], "abc")
    with pytest.raises(ValueError, match="at least 1"):
        figures.corner(x[:, :0], x[:, :0], "")
    with pytest.raises(ValueError, match="no row of finite values"):
        figures.corner(x * torch.nan, x, "abc")
    with pytest.raises(ValueError, match="no finite NLL"):
        figures.training_curve([1], [float("nan")], [float("nan")])
