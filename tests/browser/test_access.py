"""The page for everybody: axe, where the keyboard is, contrast, and a phone."""

import io

import numpy as np
import pytest
from PIL import Image
from proxy import proxy

from diffeo.explorer.serving import serve
from diffeo.explorer.subject import Subject

from .test_page import READY, TABS

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect
WIDTHS = {"wide": 1100, "phone": 390}


def open_tab(page, tab) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    page.locator(READY[tab]).locator("visible=true").first.wait_for()


@pytest.fixture
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABS)
def test_axe_finds_nothing_serious_on_any_tab(visit, axe, name, width, scheme):
    page = visit(name, width=WIDTHS[width], scheme=scheme)
    for tab in TABS[name]:
        open_tab(page, tab)
        page.wait_for_function("!document.querySelector('.pending, .generating')")
        page.wait_for_timeout(400)  # colours fade in
        found = axe.run(page).response["violations"]
        serious = [
            (violation["id"], [node["html"][:160] for node in violation["nodes"]])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ]
        assert not serious, tab


def seen(page, box) -> np.ndarray:
    """The relative luminance of each pixel of a part of the page (WCAG 2.2)."""
    # The caret blinks, and transitions go on: neither is a ring.
    shot = page.screenshot(clip=box, animations="disabled", caret="hide")
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")) / 255
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    return (np.maximum(a, b) + 0.05) / (np.minimum(a, b) + 0.05)


# What draws the ring: a radio's label, and else the control itself.
PLACE = """() => {
    const e = document.activeElement, box = (e.closest('label') || e).getBoundingClientRect();
    return [e.tagName, e.type, box.x, box.y, box.width, box.height, innerHeight];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", TABS)
def test_the_keyboard_is_seen_wherever_it_is(visit, name, scheme):
    """A ring changes at least as many pixels as lie around a control, by a contrast of 3."""
    page = visit(name, scheme=scheme)
    kinds = set()
    for tab in TABS[name]:
        open_tab(page, tab)
        page.wait_for_timeout(500)
        page.get_by_role("tab", name=TABS[name][0], exact=True).focus()
        before = None
        for _ in range(24):
            page.keyboard.press("Tab")
            tag, kind, x, y, width, height, limit = page.evaluate(PLACE)
            if tag == "BODY" or y < 0 or y + height + 4 > limit or not width:
                continue
            box = {"x": x - 5, "y": y - 5, "width": width + 10, "height": height + 10}
            with_ring = seen(page, box)
            page.evaluate("window.left = document.activeElement, window.left.blur()")
            before = seen(page, box)
            # As a keyboard would, so that :focus-visible holds.
            page.evaluate("window.left.focus({focusVisible: true})")
            ring = (contrast(with_ring, before) >= 3).sum()
            assert ring >= 2 * (width + height), (tab, tag, kind, int(ring), width, height)
            kinds.add(kind or tag)
    assert {"range", "number", "submit", "file"} <= kinds
    assert name != "digits" or {"radio", "checkbox"} <= kinds


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chosen_radio_looks_the_same_when_it_is_hovered(visit, scheme):
    page = visit("digits", scheme=scheme)
    chosen = page.locator("#grid label:has(input:checked)")
    box = chosen.bounding_box()
    page.mouse.move(1, 1)
    page.wait_for_timeout(400)
    rest = seen(page, box)
    chosen.hover()
    page.wait_for_timeout(400)
    assert (contrast(seen(page, box), rest) > 1.2).mean() < 0.03  # the edges are smoothed
    # And the dot stands out of its circle.
    circle = page.locator("#grid input:checked").bounding_box()
    assert contrast(*np.quantile(seen(page, circle), [0.02, 0.98])) >= 3


RESULT = {
    "Sample": "#samples img, #samples svg",
    "Interpolate": "#mixed img",
    "Edit": "#after img",
    "Inspect": "#inspect-place svg",
    "Density": "#density svg",
    "Flow": "#film canvas",
}


IN_SIGHT = """result => {
    const box = document.querySelector(result)?.getBoundingClientRect();
    return box && box.height > 0 && box.y >= 0 && box.y < innerHeight / 2;
}"""


@pytest.mark.parametrize("name", ["digits", "moons", "bare"])
def test_on_a_phone_the_head_is_small_and_each_result_in_sight(visit, name):
    page = visit(name, width=390)
    head = page.locator(".page-head").bounding_box()
    assert head["y"] + head["height"] <= 0.15 * 844
    for tab in TABS.get(name, TABS["digits"]):
        open_tab(page, tab)
        page.wait_for_timeout(300)
        box = page.locator(RESULT[tab]).locator("visible=true").first.bounding_box()
        assert box["y"] + min(box["height"], 300) <= 844, tab
    # Also after something has been asked for.
    open_tab(page, "Sample")
    page.locator("#redraw").click()
    page.wait_for_timeout(500)
    page.wait_for_function(IN_SIGHT, arg=RESULT["Sample"])


def test_odd_values_are_answered_next_to_the_result(visit):
    page = visit("digits")
    alert = page.get_by_role("alert")
    temperature = page.get_by_label("number input for Temperature")
    before = page.locator("#samples img").first.get_attribute("src")
    for value, words in (("99", "Temperature is 99"), ("", "Temperature is empty")):
        temperature.fill(value)
        expect(alert).to_contain_text(f"{words}: write a number from 0 to 1.5.")
    temperature.fill("0.7")
    expect(alert).to_have_count(0)
    seed = page.locator("#seed input")
    for value, words in (("-5", "−5"), ("99999999999", "99999999999"), ("", "empty")):
        seed.fill(value)
        expect(alert).to_contain_text(f"Seed is {words}: write a whole number from 0 to")
    page.locator("#redraw").click()
    expect(alert).to_contain_text("Seed is empty")
    seed.fill("3")
    expect(alert).to_have_count(0)
    assert page.locator("#samples img").first.get_attribute("src") != before
    assert page.locator(".toast-body").count() == 0


@pytest.mark.parametrize("strips", [True, False], ids=["prefix removed", "prefix passed on"])
@pytest.mark.parametrize("keeps_host", [True, False], ids=["host passed on", "own host"])
def test_behind_a_proxy_the_browser_asks_for_nothing_beyond_the_prefix(
    chromium, runs, strips, keeps_host
):
    server = serve(Subject(runs["digits"]), wait=False, root_path="/flows/digits")
    target, asked = server.local_url.rstrip("/"), []
    with proxy(target, "/flows/digits", strips=strips, keeps_host=keeps_host) as address:
        context = chromium.new_context()
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        wrong = []
        page.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status} {r.url}"))
        page.goto(address)
        image = page.locator("#samples img").first
        image.wait_for()
        before = image.get_attribute("src")
        page.locator("#redraw").click()
        expect(image).not_to_have_attribute("src", before)
        page.get_by_role("tab", name="Inspect").click()  # which waits in the queue
        page.locator("#inspect-levels svg").first.wait_for()
        context.close()
    server.close(verbose=False)
    assert len(asked) > 10
    assert not wrong
    beyond = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not beyond
