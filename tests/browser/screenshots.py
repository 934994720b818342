"""Take the images of docs/explorer.md: `python tests/browser/screenshots.py RUN OUT [NAME ...]`.

RUN is a run folder, OUT the beginning of the files' names, NAME a tab (all of them by default), or
`TAB:dark` or `TAB:phone`.
"""

from __future__ import annotations

import sys

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from diffeo.explorer.serving import serve
from diffeo.explorer.subject import Subject
from diffeo.run import Run

READY = "#samples img, #samples svg, #strip img, #after img, #inspect-levels svg, #steps td, #film"
SETTLE = 3_000  # milliseconds


def prepare(page: Page, tab: str) -> None:
    """Bring a tab to where it shows what it does."""
    if tab == "Edit":
        sliders = page.locator(".tabitem input[type=range]:visible")
        if sliders.count():
            sliders.nth(3).focus()
            for _ in range(3):
                page.keyboard.press("PageUp")
        else:
            page.locator(".tabitem input[type=radio]:visible").nth(3).check()
    elif tab == "Interpolate":
        page.get_by_label("four images").check()
    elif tab == "Flow":
        page.locator("#film .time").focus()
        page.locator("#film .time").fill("6")
    elif tab == "Density":
        heat = page.locator("#density image").bounding_box()
        assert heat
        page.mouse.click(heat["x"] + 0.55 * heat["width"], heat["y"] + 0.62 * heat["height"])


def main(run: str, out: str, names: list[str]) -> None:
    """Write one file for each."""
    addresses: list[str] = []
    server = serve(Subject(Run(run)), wait=False, ready=addresses.append)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for name in names:
            tab, _, look = name.partition(":")
            page = browser.new_page(
                viewport={"width": 390 if look == "phone" else 1080, "height": 760},
                color_scheme="dark" if look == "dark" else "light",
            )
            page.goto(addresses[0])
            page.get_by_role("tab", name=tab, exact=True).click()
            page.locator(READY).locator("visible=true").first.wait_for()
            page.wait_for_timeout(SETTLE)
            prepare(page, tab)
            page.wait_for_timeout(SETTLE)
            file = f"{out}-{tab.lower()}{'-' + look if look else ''}.png"
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=file, full_page=look != "phone")
            with Image.open(file) as image:
                few = image.convert("RGB").quantize(200, dither=Image.Dither.NONE)
            few.save(file, optimize=True)
            page.close()
        browser.close()
    server.close(verbose=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
