"""The page: its head, and a tab for each thing to do."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from diffeo.explorer.events import Page
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs import ask, columns, edit, inspect, interpolate, oddities, plane, sample
from diffeo.explorer.tabs.parts import AT_ONCE, IN_TURN

TABS: dict[str, dict[str, Callable[[Subject], Any]]] = {
    "images": {
        "Sample": sample.add,
        "Interpolate": interpolate.add,
        "Edit": edit.add,
        "Inspect": inspect.add,
    },
    "plane": {
        "Density": plane.add_density,
        "Flow": plane.add_flow,
        "Sample": sample.add,
        "Inspect": inspect.add,
    },
    "mixed": {"Columns": columns.add, "Ask": ask.add, "Inspect": oddities.add},
    "table": {"Sample": sample.add, "Inspect": inspect.add},
}

# Dark or light is what the system says, until somebody says otherwise.
TURN = "() => { document.body.classList.toggle('dark'); }"


def build(subject: Subject) -> gr.Blocks:
    """The page of a model. What is on it belongs to each visitor alone."""
    with Page(title=f"{subject.name} · diffeo", analytics_enabled=False) as page:
        with gr.Row(elem_classes="page-head"):
            gr.HTML(_head(subject))
            turn = gr.Button("Light or dark", size="sm", scale=0, min_width=120, elem_id="theme")
            turn.click(None, js=TURN, **AT_ONCE)
        opened = [gr.State(False) for _ in TABS[subject.kind]]
        with gr.Tabs():
            for i, (name, add) in enumerate(TABS[subject.kind].items()):
                with gr.Tab(name, id=name) as tab:
                    begin = add(subject)
                if begin is None:
                    continue
                handler, inputs, outputs = begin
                if i == 0:
                    page.load(handler, inputs, outputs, **AT_ONCE)
                    continue
                # Once: what a visitor has made stays when the tab is left and opened again.
                once = _once(handler, [opened[i], *inputs], [opened[i], *outputs])
                # One sign that it is at work, not one for each output.
                busy = next(output for output in outputs if isinstance(output, gr.HTML))
                tab.select(*once, **IN_TURN, show_progress_on=busy)
    return page


def _once(handler: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> tuple[Any, ...]:
    def begin(opened: bool, *rest: Any) -> list[Any]:
        if opened:
            return [gr.skip() for _ in outputs]
        return [True, *handler(*rest)]

    return begin, inputs, outputs


def _head(subject: Subject) -> str:
    missing = ""
    if subject.missing:
        missing = (
            '<p class="note">Its data are not available: the page shows samples of the model '
            "instead of them.</p>"
        )
    return f"<h1>{escape(subject.name)}</h1><p>{escape(subject.describe())}</p>{missing}"
