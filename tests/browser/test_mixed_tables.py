"""The tabs of a model of a mixed table."""

import re

import pytest
from explored import visits

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect


def test_columns_are_listed_and_drawn_and_samples_change(visit):
    page = visit("mixed", "Columns")
    expect(page.locator("#schema tbody tr")).to_have_count(7)
    charts = page.locator("#marginals svg")
    expect(charts).to_have_count(7)
    before = page.locator("#marginals .others").first.get_attribute("points")
    page.locator("#redraw").click()
    expect(page.locator("#marginals .others").first).not_to_have_attribute("points", before)


def test_two_chosen_columns_are_drawn(visit):
    page = visit("mixed", "Columns")
    page.locator("#pair svg").first.wait_for()
    for name, label in (("First column", "ward"), ("Second column", "oxygen")):
        page.get_by_label(name).click()
        page.get_by_role("option", name=label, exact=True).click()
        expect(page.get_by_role("option")).to_have_count(0)
    expect(page.locator("#pair svg.boxes")).to_have_count(1)
    expect(page.locator("#pair .box.sample").first).to_be_visible()


def test_a_slider_that_is_moved_gives_its_column_and_the_others_move(visit):
    page = visit("mixed", "Ask")
    oxygen, ward = page.locator("#answer-4"), page.locator("#answer-0")
    expect(oxygen).to_contain_text("mean")
    before = ward.inner_html()
    given = page.locator("#given-4 input")
    expect(given).not_to_be_checked()
    page.locator("#ask-4 input[type=range]").focus()
    page.keyboard.press("Home")
    expect(given).to_be_checked()
    expect(oxygen).to_contain_text("Given: ")
    expect(ward).to_contain_text("west 9")  # patients of the ward "west" have the least
    assert ward.inner_html() != before
    page.locator("#ask-clear").click()
    expect(given).not_to_be_checked()
    expect(oxygen).to_contain_text("mean")


def test_a_menu_and_an_empty_cell_are_given_and_rows_are_drawn(visit):
    page = visit("mixed", "Ask")
    page.locator("#answer-0 svg").wait_for()
    page.locator("#ask-1 input").click()
    page.get_by_role("option", name="(empty)").click()
    expect(page.locator("#given-1 input")).to_be_checked()
    expect(page.locator("#answer-1")).to_contain_text("Given: (empty)")
    page.locator("#given-6 input").check()
    expect(page.locator("#answer-6")).to_contain_text("Given: 2024-0")
    page.locator("#ask-draw").click()
    rows = page.locator("#ask-rows tbody tr")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("(empty)")
    for i in range(7):
        page.locator(f"#given-{i} input").check()
    expect(page.get_by_role("alert")).to_contain_text("all columns are given")


def test_the_odd_cells_of_a_file_are_marked(visit):
    page = visit("mixed", "Inspect")
    rows = page.locator("#inspect-numbers tbody tr")
    rows.first.wait_for()
    frame = visits(30, seed=5)
    frame.loc[7, "oxygen"], frame.loc[3, "ward"] = 80.0, "south"

    def bring(name: str, content: bytes) -> None:
        page.locator("#inspect-own input").set_input_files(
            {"name": name, "mimeType": "text/csv", "buffer": content}
        )

    bring("mine.csv", frame.to_csv(index=False).encode())
    expect(page.locator("#inspect-head")).to_contain_text("mine.csv, 30 rows")
    expect(rows.nth(0)).to_contain_text("row 4")
    expect(rows.nth(0).locator("td.odd").first).to_contain_text("cannot be: an unknown value")
    expect(rows.nth(1)).to_contain_text("row 8")
    odd = rows.nth(1).locator("td.odd", has_text="80")
    expect(odd).to_contain_text(re.compile(r"expected 9\d"))
    colour = odd.evaluate("e => getComputedStyle(e).backgroundColor")
    assert colour != "rgba(0, 0, 0, 0)"
    alert = page.get_by_role("alert")
    bring("other.csv", b"a,b\n1,2\n")
    expect(alert).to_contain_text("other.csv lacks the column 'ward' and 6 more")
    expect(rows.nth(1)).to_contain_text("row 8")


def test_on_a_phone_each_control_is_next_to_its_chart(visit):
    page = visit("mixed", "Ask", width=390)
    page.locator("#answer-0 svg").wait_for()
    for i in range(7):
        chart = page.locator(f"#answer-{i} svg").bounding_box()
        control = page.locator(f"#ask-{i}").bounding_box()
        assert chart["width"] <= 390
        assert 0 < control["y"] - chart["y"] < 330
    head = page.locator(".page-head").bounding_box()
    assert head["y"] + head["height"] <= 0.15 * 844
