"""The page as a whole: the keyboard, a phone, the dark, other visitors, and what it refuses."""

import json
import re
import threading
import urllib.error
import urllib.request

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect

TABS = {
    "digits": ["Sample", "Interpolate", "Edit", "Inspect"],
    "moons": ["Density", "Flow", "Sample", "Inspect"],
    "mixed": ["Columns", "Ask", "Inspect"],
}
READY = {
    "Sample": "#samples img, #samples svg",
    "Interpolate": "#strip img",
    "Edit": "#after img",
    "Inspect": "#inspect-place svg",
    "Columns": "#pair svg",
    "Ask": "#answer-0 svg",
    "Density": "#steps td",
    "Flow": "#film .where:not(:empty)",
}
LUMINANCE = """element => {
    const [r, g, b] = getComputedStyle(element).color.match(/[0-9.]+/g).map(Number);
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


@pytest.mark.parametrize("name", TABS)
def test_a_phone_needs_no_scrolling_sideways(visit, name):
    page = visit(name, width=390)
    for tab in TABS[name]:
        page.get_by_role("tab", name=tab, exact=True).click()
        page.locator(READY[tab]).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 390, tab


@pytest.mark.parametrize("name", TABS)
def test_each_tab_is_reached_and_left_by_the_keyboard(visit, name):
    page = visit(name)
    page.get_by_role("tab", name=TABS[name][0], exact=True).focus()
    for tab in TABS[name][1:]:
        page.keyboard.press("Tab")
        expect(page.get_by_role("tab", name=tab, exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        page.locator(READY[tab]).first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('[role=tabpanel]') !== null")


@pytest.mark.parametrize("name", TABS)
def test_every_control_has_a_name(visit, name):
    page = visit(name)
    for tab in TABS[name]:
        page.get_by_role("tab", name=tab, exact=True).click()
        page.locator(READY[tab]).first.wait_for()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('input, button, textarea, [tabindex="0"]')]
                .filter(e => e.offsetParent && !e.getAttribute('aria-label')
                    && !e.getAttribute('aria-labelledby') && !e.title
                    && !(e.labels && [...e.labels].some(l => l.innerText.trim()))
                    && !e.innerText.trim())
                .map(e => e.outerHTML.slice(0, 200))"""
        )
        assert not nameless, tab
        assert not page.evaluate(
            "() => [...document.images].filter(i => i.getAttribute('alt') === null).length"
        )


@pytest.mark.parametrize(("scheme", "light"), [("light", False), ("dark", True)])
def test_light_and_dark_follow_the_system_and_the_button(visit, scheme, light):
    page = visit("digits", scheme=scheme)
    heading = page.get_by_role("heading", level=1)
    assert (heading.evaluate(LUMINANCE) > 0.5) is light
    page.locator("#theme").click()
    assert (heading.evaluate(LUMINANCE) > 0.5) is not light


def test_what_one_visitor_does_another_does_not_see(visit):
    one, other = visit("digits", "Interpolate"), visit("digits", "Interpolate")
    for page in (one, other):
        page.locator("#strip img").first.wait_for()
    before = other.locator("#mixed img").get_attribute("src")
    one.locator("#another-A").click()
    expect(one.locator("#slot-A figcaption")).to_contain_text("test image 4")
    other.locator("#across input[type=range]").focus()
    other.keyboard.press("ArrowRight")
    expect(other.locator("#mixed figcaption")).to_contain_text("51 %")
    other.keyboard.press("ArrowLeft")
    expect(other.locator("#mixed figcaption")).to_contain_text("50 %")
    expect(other.locator("#mixed img")).to_have_attribute("src", before)


def test_a_slider_does_not_wait_for_somebody_elses_film(visit, monkeypatch):
    from diffeo.explorer import mixing

    made, waiting = threading.Event(), threading.Event()

    def slow(*_):
        waiting.set()
        made.wait(60)
        return b"GIF89a"

    monkeypatch.setattr(mixing, "film", slow)
    one, other = visit("digits", "Interpolate"), visit("digits")
    one.locator("#strip img").first.wait_for()
    try:
        one.locator("#make-gif").click()
        while not waiting.is_set():
            one.wait_for_timeout(20)
        image = other.locator("#samples img").first
        before = image.get_attribute("src")
        other.locator("#temperature input[type=range]").focus()
        other.keyboard.press("ArrowLeft")
        expect(image).not_to_have_attribute("src", before)
        assert not made.is_set()
    finally:
        made.set()
    expect(one.get_by_role("link", name="Download")).to_be_visible()


def test_a_failure_is_a_sentence_and_no_stack_trace(visit, monkeypatch, capfd):
    from diffeo.explorer import sampling

    def broken(*_):
        raise RuntimeError("secret words")

    page = visit("digits")
    monkeypatch.setattr(sampling, "sample", broken)
    page.locator("#redraw").click()
    expect(page.get_by_role("alert")).to_have_text("That did not work; the terminal says why.")
    assert "secret words" not in page.content()
    assert "secret words" in capfd.readouterr().err


def ask(address: str, **options) -> tuple[int, bytes]:
    try:
        request = urllib.request.Request(address, **options)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_no_path_that_a_visitor_names_is_read(served, runs):
    address = served["digits"]
    config = runs["digits"].config_file
    for path in (
        f"/gradio_api/file={config}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/upload",
        "/static/../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/theme.css/../../etc/passwd",
    ):
        status, body = ask(address + path)
        assert status >= 400 or b"<html" in body[:200], path
        assert b"root:" not in body, path
        assert b"splits" not in body, path
    status, body = ask(f"{address}/config")
    functions = json.loads(body)["dependencies"]
    secret = {"path": str(config), "meta": {"_type": "gradio.FileData"}}
    for function in functions:
        if not function["backend_fn"]:
            continue
        message = {
            "fn_index": function["id"],
            "session_hash": "test",
            "data": [secret] * len(function["inputs"]),
            "event_data": {"files": [secret]},
        }
        status, body = ask(
            f"{address}/gradio_api/run/predict",
            data=json.dumps(message).encode(),
            headers={"Content-Type": "application/json"},
        )
        assert b"splits" not in body


def test_only_this_machine_is_answered_and_by_its_name(served):
    address = served["digits"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
    status, _ = ask(address, headers={"Host": "evil.example"})
    assert status == 400
    status, _ = ask(
        f"{address}/gradio_api/run/predict", method="POST", headers={"Content-Length": str(2**31)}
    )
    assert status == 413


def test_the_browser_may_ask_nobody_else(visit, served):
    page = visit("digits")
    policy = page.request.get(served["digits"]).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http:" not in policy


@pytest.mark.parametrize(
    ("tab", "slider", "stage", "what"),
    [
        ("Interpolate", "#across", "#mixed", "one image"),
        ("Sample", "#temperature", "#samples", "16 images"),
    ],
)
def test_how_long_a_slider_takes(visit, capsys, tab, slider, stage, what):
    """Of a Glow of 32 x 32 with K 8, width 128 and L 3; not judged, since others may be at work."""
    page = visit("large", tab)
    page.locator(READY[tab]).first.wait_for()
    measured = page.evaluate(MEASURE, [slider, stage])
    assert len(measured) == 20
    assert all(value > 0 for value in measured)
    ordered = sorted(measured)
    with capsys.disabled():
        print(
            f"\n{tab}: a slider's move shows {what} after {ordered[10]:.0f} ms (median of 20), "
            f"{ordered[-1]:.0f} ms at worst"
        )


# From the event of the input to the frame after the last image that it changed has been decoded.
MEASURE = """async ([slider, stage]) => {
    const range = document.querySelector(`${slider} input[type=range]`);
    const times = [];
    for (let i = 0; i < 20; i++) {
        const before = document.querySelector(`${stage} img`).src;
        const start = performance.now();
        range.value = Number(range.max) * (0.3 + 0.05 * i % 0.5);
        range.dispatchEvent(new Event("input", {bubbles: true}));
        while (document.querySelector(`${stage} img`).src === before) {
            await new Promise(done => requestAnimationFrame(done));
        }
        const images = [...document.querySelectorAll(`${stage} img`)];
        await Promise.all(images.map(image => image.decode()));
        await new Promise(done => requestAnimationFrame(done));
        times.push(performance.now() - start);
        await new Promise(done => setTimeout(done, 50));
    }
    return times;
}"""
