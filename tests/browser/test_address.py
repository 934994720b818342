"""The address of the page says what is on it, and opens it as it was."""

from urllib.parse import parse_qsl, urlsplit

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect


def query(page) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(page.url).query))


def source(page, selector) -> str:
    return page.locator(f"{selector} img").first.get_attribute("src")


def wait_for(page, name, value) -> None:
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).get(name) === value",
        arg=[name, value],
    )


def test_samples_are_linked(visit):
    page = visit("labels")
    assert query(page) == {}  # nothing was moved
    before = source(page, "#samples")
    page.locator("#redraw").click()
    wait_for(page, "seed", "1")
    page.get_by_label("3", exact=True).check()
    wait_for(page, "label", "3")
    expect(page.locator("#samples img").first).to_have_attribute("alt", "a sample: label 3")
    shown, address = source(page, "#samples"), page.url
    assert shown != before
    page.goto(address)
    expect(page.locator("#samples img").first).to_have_attribute("src", shown)
    assert query(page) == {
        "tab": "Sample",
        "seed": "1",
        "temperature": "0.8",
        "grid": "4",
        "label": "3",
    }
    with page.expect_download() as download:
        page.locator("#samples").get_by_role("link", name="Save as PNG").click()
    assert download.value.suggested_filename == "samples.png"


@pytest.mark.parametrize("name", ["labels", "digits"])
def test_an_edit_is_linked(visit, name):
    """By a condition and by a direction."""
    page = visit(name, "Edit")
    page.locator("#after img").wait_for()
    before = source(page, "#before")
    page.locator("#another").click()
    expect(page.locator("#before img")).not_to_have_attribute("src", before)
    wait_for(page, "image", "1")
    rest = source(page, "#after")
    if name == "labels":
        page.get_by_role("radio", name="4", exact=True).check()
        wait_for(page, "label", "4")
    else:
        page.get_by_label("range slider for Label: 4").focus()
        for _ in range(10):
            page.keyboard.press("PageUp")
        page.wait_for_function("new URLSearchParams(location.search).get('label=4') > 0.4")
    expect(page.locator("#after img")).not_to_have_attribute("src", rest)
    page.wait_for_timeout(2_000)  # for the last of the moves
    shown, address = source(page, "#after"), page.url
    page.goto(address)
    expect(page.locator("#after img")).to_have_attribute("src", shown)
    assert page.url == address
    expect(page.get_by_role("tab", name="Edit", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    names = page.get_by_role("tab").all_inner_texts()
    assert names == ["Sample", "Interpolate", "Edit", "Inspect"]


def test_an_address_that_is_wrong_is_answered_with_a_sentence(visit):
    page = visit("labels")
    page.goto(page.url.partition("?")[0] + "?tab=Sample&seed=2&temperature=9&label=17")
    expect(page.locator("#address-trouble").get_by_role("alert")).to_have_text(
        "In the address, Temperature is 9: write a number from 0 to 1.5. "
        "In the address, Label is '17': choose from any, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."
    )
    expect(page.get_by_label("Seed")).to_have_value("2")


def test_a_tab_without_controls_is_linked(visit):
    page = visit("digits", "Inspect")
    wait_for(page, "tab", "Inspect")
    page.goto(page.url)
    expect(page.locator("#inspect-numbers tbody tr")).to_have_count(8)
