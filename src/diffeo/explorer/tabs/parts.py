"""Shared parts of the tabs: event settings, uploads, and controls of the context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

import gradio as gr

from diffeo.explorer.conditions import ANY, Conditions, Control

# A control that is moved answers at once: outside of the queue, so that no visitor waits for what
# another one has ordered, and with the last of many moves always shown.
AT_ONCE: dict[str, Any] = {
    "queue": False,
    "trigger_mode": "always_last",
    "show_progress": "hidden",
    "api_visibility": "private",
}
# What comes along with an event is lost if the event is put off: it is answered at any rate.
BROUGHT: dict[str, Any] = {**AT_ONCE, "trigger_mode": "multiple"}
# What takes its time waits in the queue, and says so.
IN_TURN: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 2}


@dataclass(frozen=True)
class Begin:
    """What is to be done when a tab is opened first.

    Args:
        handler: the function of an event.
        inputs: its inputs.
        outputs: its outputs, the last of which is the message of the tab.
        linked: the controls whose values are in the address of the page, by their names there.
        wanted: the input that gets the values of the address, where the handler sets the controls
            itself; None where the controls get them.
    """

    handler: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    linked: dict[str, Any] = field(default_factory=dict)
    wanted: Any = None


def asset(name: str) -> str:
    """A file of the page: its style, or what a part of it does in the browser."""
    return files("diffeo.explorer").joinpath("assets", name).read_text(encoding="utf-8")


def upload(label: str, *, many: bool = False, kind: str = "image/*", elem_id: str) -> gr.HTML:
    """A button that takes one's own files, also dropped; its event "upload" brings them along.

    The browser reads them and sends them inside its message: no file is named to the server, and
    none is stored there.
    """
    several = " multiple" if many else ""
    name = escape(label, quote=True)
    markup = (
        f'<label class="drop"><input type="file" accept="{kind}"{several} aria-label="{name}">'
        f"<span>{escape(label)}</span></label>"
    )
    return gr.HTML(markup, js_on_load=asset("upload.js"), elem_id=elem_id, elem_classes="upload")


def sent(event: gr.EventData, name: str) -> Any:
    """What the browser sent along with an event under a name; None for nothing."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def context_controls(conditions: Conditions, *, any_of: bool) -> list[Any]:
    """Controls for the variables of a model's context.

    Args:
        conditions: the variables.
        any_of: whether each class may be left open.
    """
    controls: list[Any] = []
    for control in conditions.controls:
        if control.values:
            values = [ANY, *control.values] if any_of else [*control.values]
            make = gr.Radio if len(values) <= 12 else gr.Dropdown
            controls.append(make(values, value=values[0], label=title(control.name)))
        else:
            controls.append(number_slider(control))
    return controls


def number_slider(control: Control) -> gr.Slider:
    """The slider of a number, of a hundred steps."""
    span = control.high - control.low
    return gr.Slider(
        control.low,
        control.high,
        value=control.first,
        step=control.rounded(span / 100) or 0.01,
        label=title(control.name),
    )


def title(name: str) -> str:
    """A name as a label. In lower case some would be translated by Gradio, which has such keys."""
    words = name.replace("_", " ").replace("=", ": ")
    return words[:1].upper() + words[1:]


def on_move(control: Any, handler: Callable[..., Any], inputs: Any, outputs: Any) -> None:
    """Answer while a control is being moved, by mouse, finger or keyboard."""
    event = control.input if hasattr(control, "input") else control.change
    event(handler, inputs, outputs, **AT_ONCE)
