"""The page in a real browser: models, a server for each, and pages that tell what went wrong."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from explored import mixed_run

import diffeo
from diffeo.context import ContextSpec
from diffeo.data import ImageOptions, TableOptions, load_images, load_table
from diffeo.run import Run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DIGITS = "data:\n  source: digits\n  splits: [0.8, 0.1, 0.1]\n"
SLOW = 40_000  # milliseconds until something that has not appeared is missed


def missing() -> str:
    """What keeps these tests from running."""
    for module, remedy in (("gradio", "explorer"), ("playwright", "browser")):
        if importlib.util.find_spec(module) is None:
            return f'needs {module}: pip install "diffeo[{remedy}]"'
    return "" if CHROMIUM else "needs Chromium on the path: apt-get install chromium"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    here = Path(__file__).parent
    for item in items:
        if reason and item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason=reason))


def glow(context: ContextSpec | None = None, steps: int = 12) -> diffeo.Glow:
    """A small Glow of the digits, trained for some seconds."""
    torch.manual_seed(0)
    data = load_images(ImageOptions("digits", context=["label"] if context else None)).train
    x, labels = data.take(torch.arange(len(data)))
    flow = diffeo.Glow((1, 8, 8), 2, 2, 24, context=context).initialize(x, labels)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for rows in torch.randint(len(x), (steps, 64)):
        some = None if labels is None else labels[rows]
        loss = flow.bits_per_dim(x[rows], some).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    flow.metadata = {"data": "digits", "labels": [str(i) for i in range(10)]}
    return flow.eval()


def real_nvp() -> diffeo.RealNVP:
    """A small RealNVP of the moons."""
    torch.manual_seed(0)
    x = load_table(TableOptions("moons", rows=4_000)).train.x
    flow = diffeo.RealNVP(2, layers=4, hidden=(32,)).initialize(x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for rows in torch.randint(len(x), (40, 256)):
        loss = -flow.log_prob(x[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    flow.metadata = {"data": "moons", "columns": ["x", "y"]}
    return flow.eval()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Run folders: digits, digits by their label, moons, and models whose data are not at hand.

    And "mixed", a model of a table of all kinds of columns.
    """
    folder = tmp_path_factory.mktemp("runs")
    glow().save_pretrained(folder / "digits/model")
    (folder / "digits/config.yaml").write_text(DIGITS)
    glow(ContextSpec.classes(10)).save_pretrained(folder / "labels/model")
    (folder / "labels/config.yaml").write_text(DIGITS + "  context: [label]\n")
    real_nvp().save_pretrained(folder / "moons/model")
    moons = "data:\n  source: moons\n  rows: 4000\n  splits: [0.8, 0.1, 0.1]\n"
    (folder / "moons/config.yaml").write_text(moons)
    shutil.copytree(folder / "labels/model", folder / "bare")
    large = diffeo.Glow((3, 32, 32), levels=3, steps=8, hidden_channels=128)
    large.initialize(torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8))
    large.save_pretrained(folder / "large")
    found = {name: Run(folder / name) for name in ("digits", "labels", "moons", "bare", "large")}
    return found | {"mixed": mixed_run(folder / "mixed")}


class Servers:
    """Addresses of pages, each served when it is first asked for."""

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs, self.pages, self.addresses = runs, [], {}

    def __getitem__(self, name: str) -> str:
        from diffeo.explorer.serving import serve
        from diffeo.explorer.subject import Subject

        if name not in self.addresses:

            def ready(address: str) -> None:
                self.addresses[name] = address

            self.pages.append(serve(Subject(self.runs[name]), wait=False, ready=ready))
        return self.addresses[name]


@pytest.fixture(scope="session")
def served(runs: dict[str, Run]) -> Iterator[Servers]:
    servers = Servers(runs)
    yield servers
    for page in servers.pages:
        page.close(verbose=False)


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SLOW)
    with sync_playwright() as playwright:
        # Without a sandbox, which a container's root has not.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, served) -> Iterator[object]:
    """`visit("digits", "Edit")` opens a page at a tab; nothing may fail or come from elsewhere."""
    contexts, wrong = [], []

    def watch(page, address: str) -> None:
        def asked(request) -> None:
            if not request.url.startswith((address, "data:", "blob:")):
                wrong.append(f"asked for {request.url}")

        page.on("request", asked)
        page.on("pageerror", lambda error: wrong.append(f"page error {error}"))
        page.on(
            "console",
            lambda m: m.type in ("error", "warning") and wrong.append(f"{m.type} {m.text}"),
        )
        page.on("response", lambda r: r.status >= 400 and wrong.append(f"{r.status} of {r.url}"))

    def open_page(name: str, tab: str = "", width: int = 1100, scheme: str = "light"):
        size = {"width": width, "height": 844}
        context = chromium.new_context(
            viewport=size, color_scheme=scheme, accept_downloads=True, has_touch=width < 500
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW)
        watch(page, served[name])
        page.goto(served[name])
        first = page.get_by_role("tab").first
        first.wait_for()
        page.locator(".image-grid img, svg.chart").first.wait_for()
        if tab:
            page.get_by_role("tab", name=tab, exact=True).click()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
