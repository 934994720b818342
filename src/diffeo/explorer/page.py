"""The page: its head, and a tab for each thing to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from diffeo.explorer import links
from diffeo.explorer.events import Page
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs import ask, columns, edit, inspect, interpolate, oddities, plane, sample
from diffeo.explorer.tabs.parts import AT_ONCE, IN_TURN, Begin

TABS: dict[str, dict[str, Callable[[Subject], Begin | None]]] = {
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
        message = gr.HTML(elem_id="address-trouble", elem_classes="message")
        begins: dict[str, Begin] = {}
        with gr.Tabs() as tabs:
            for name, add in TABS[subject.kind].items():
                with gr.Tab(name, id=name) as tab:
                    begin = add(subject)
                    if begin is not None:  # the first one begins with the page
                        begins[name] = _once(begin) if begins else begin
                links.follow(name, tab, begin.linked if begin else {})
                if begin is not None and len(begins) > 1:
                    # One sign that it is at work, not one for each output.
                    busy = next(part for part in begin.outputs if isinstance(part, gr.HTML))
                    once = begins[name]
                    event = once.handler, once.inputs, once.outputs
                    tab.select(*event, **IN_TURN, show_progress_on=busy)
        links.open_at(page, tabs, begins, message)
    return page


def _once(begin: Begin) -> Begin:
    """Once: what a visitor has made stays when the tab is left and opened again."""
    opened = gr.State(False)
    outputs = [opened, *begin.outputs]

    def handler(opened: bool, *rest: Any) -> list[Any]:
        if opened:
            return [gr.skip() for _ in outputs]
        return [True, *begin.handler(*rest)]

    return replace(begin, handler=handler, inputs=[opened, *begin.inputs], outputs=outputs)


def _head(subject: Subject) -> str:
    missing = ""
    if subject.missing:
        missing = (
            '<p class="note">Its data are not available: the page shows samples of the model '
            "instead of them.</p>"
        )
    return f"<h1>{escape(subject.name)}</h1><p>{escape(subject.describe())}</p>{missing}"
