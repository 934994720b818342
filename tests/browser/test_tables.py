"""The tabs of a model of two columns."""

import pytest
import torch

from diffeo.data import TableOptions, load_table

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def test_a_click_shows_the_path_of_that_point(visit, runs):
    page = visit("moons", "Density")
    rows = page.locator("#steps tbody tr")
    expect(rows).to_have_count(1 + 5 + 2)  # data, standardize and four couplings, two sums
    before = page.locator("#pick-x input").input_value()
    heat = page.locator("#density image").bounding_box()
    page.mouse.click(heat["x"] + 0.3 * heat["width"], heat["y"] + 0.4 * heat["height"])
    expect(page.locator("#pick-x input")).not_to_have_value(before)
    x, y = (float(page.locator(f"#pick-{axis} input").input_value()) for axis in "xy")
    flow = runs["moons"].flow
    point = torch.tensor([[x, y]])
    with torch.no_grad():
        z, log_prob = flow.encode(point)[0], float(flow.log_prob(point))
    expect(rows.nth(0)).to_contain_text(f"{x:.4g}".replace("-", "−"))
    cells = rows.nth(5).locator("td")
    assert number(cells.nth(2).inner_text()) == pytest.approx(float(z[0]), rel=1e-3)
    assert number(cells.nth(3).inner_text()) == pytest.approx(float(z[1]), rel=1e-3)
    added = [number(rows.nth(i).locator("td").nth(4).inner_text()) for i in range(1, 7)]
    total = number(rows.nth(7).locator("td").nth(4).inner_text())
    assert total == pytest.approx(log_prob, abs=1e-3)
    assert sum(added) == pytest.approx(total, abs=5e-3)


def test_the_cross_goes_by_the_keyboard(visit):
    page = visit("moons", "Density")
    page.locator("#steps tbody tr").first.wait_for()
    field = page.locator("#pick-x input")
    before = float(field.input_value())
    page.locator("#density svg").focus()
    page.keyboard.press("ArrowRight")
    expect(field).not_to_have_value(str(before))
    assert float(field.input_value()) > before
    field.fill("0.5")
    field.press("Enter")
    expect(page.locator("#steps tbody tr").first).to_contain_text("0.5")


def test_the_film_goes_from_noise_to_data(visit):
    page = visit("moons", "Flow")
    where = page.locator("#film .where")
    expect(where).to_contain_text("0 of 5 · noise")
    ink = "document.querySelector('#film canvas').toDataURL()"
    start = page.evaluate(ink)
    assert len(start) > 5_000
    page.locator("#film .play").click()
    page.wait_for_function("Number(document.querySelector('#film .time').value) > 0.5")
    page.locator("#film .play").click()
    expect(page.locator("#film .play")).to_have_text("Play")
    assert page.evaluate(ink) != start
    page.locator("#film .time").focus()
    page.keyboard.press("End")
    expect(where).to_contain_text("5 of 5 · data")


def test_sample_of_a_plane(visit):
    page = visit("moons", "Sample")
    circles = page.locator("#samples .sample circle")
    circles.first.wait_for()
    assert circles.count() > 900
    before = circles.first.get_attribute("cx")
    page.locator("#redraw").click()
    expect(circles.first).not_to_have_attribute("cx", before)


def test_inspect_a_csv(visit, runs):
    page = visit("moons", "Inspect")
    rows = page.locator("#inspect-numbers tbody tr")
    rows.first.wait_for()

    def bring(name: str, text: bytes) -> None:
        page.locator("#inspect-own input").set_input_files(
            {"name": name, "mimeType": "text/csv", "buffer": text}
        )

    x = load_table(TableOptions("moons", rows=4_000)).test.x[:3]
    lines = "".join(f"{b},{a},word\n" for a, b in [*x.tolist(), (9.0, 9.0)])
    bring("mine.csv", f"y,x,other\n{lines}".encode())
    expect(page.locator("#inspect-head")).to_contain_text("mine.csv, 4 rows")
    expect(rows).to_have_count(4)
    expect(rows.first).to_contain_text("row 4")  # far from all moons
    log_prob = runs["moons"].flow.log_prob(torch.tensor([[9.0, 9.0]]))
    shown = number(rows.first.locator("td").nth(1).inner_text())
    assert shown == pytest.approx(float(log_prob), abs=2e-3, rel=1e-6)
    alert = page.get_by_role("alert")
    bring("other.csv", b"a,b\n1,2\n")
    expect(alert).to_contain_text("other.csv lacks the column 'x'")
    expect(rows).to_have_count(4)
    bring("letters.csv", b"x,y\n1,two\n")
    expect(alert).to_contain_text("letters.csv")
    expect(alert).to_contain_text("two")
    bring("image.csv", b"\x89PNG\0\0\1")
    expect(alert).to_contain_text("image.csv is not a CSV file")
