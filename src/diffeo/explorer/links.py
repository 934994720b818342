"""The address of the page: which tab is open, and what its controls are set to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from diffeo.explorer import images
from diffeo.explorer.events import check_inputs
from diffeo.explorer.tabs.parts import AT_ONCE, Begin, asset

TAB = "tab"
SEARCH = "() => location.search"
OPENED = "() => { window.diffeoOpened = true; }"  # from then on address.js writes
LONGEST = 4_000  # characters of an address that are read

Linked = Mapping[str, Any]  # the controls of a tab, by their names in an address


def follow(name: str, tab: Any, linked: Linked) -> None:
    """Let the address say which tab is open and what its linked controls are set to.

    The browser alone does it, whenever the tab is opened or a control has another value.
    """
    script = f"(...values) => ({asset('address.js')})({[name, *linked]!r}, values)"
    controls = [*linked.values()]
    events = [tab.select, *(control.change for control in controls)]
    gr.on(events, None, controls, None, js=script, **AT_ONCE)


def open_at(page: gr.Blocks, tabs: gr.Tabs, begins: Mapping[str, Begin], message: gr.HTML) -> None:
    """Open the page: the first tab is begun, and that of the address, with its controls as there.

    Args:
        page: it.
        tabs: it.
        begins: of each tab that begins with something.
        message: where it says what of the address it could not read.
    """
    address = gr.Textbox("", label="Address", visible=False, elem_id="address")
    chosen = gr.State("")
    outputs = [tabs, chosen]
    for begin in begins.values():
        outputs += [begin.wanted] if begin.wanted else begin.linked.values()

    def restore(address: str) -> list[Any]:
        query = query_of(address)
        name = query.get(TAB, "")
        known = name in begins
        result: list[Any] = [gr.Tabs(selected=name) if known else gr.skip(), name if known else ""]
        amiss: list[str] = []
        for other, begin in begins.items():
            values: dict[str, Any] = {}
            if other == name:
                values, amiss = read(query, begin.linked)
            if begin.wanted:
                result.append(values)
            else:
                result += [
                    gr.update(value=values[key]) if key in values else gr.skip()
                    for key in begin.linked
                ]
        return [*result, images.trouble(" ".join(amiss))]

    restored = page.load(restore, address, [*outputs, message], js=SEARCH, **AT_ONCE)
    restored.then(None, js=OPENED, **AT_ONCE)
    for i, (name, begin) in enumerate(begins.items()):
        if i == 0:
            restored.then(begin.handler, begin.inputs, begin.outputs, **AT_ONCE)
        else:  # a tab that is opened by the page itself, and not by a visitor, has no event
            handler = _if_chosen(name, begin)
            restored.then(handler, [chosen, *begin.inputs], begin.outputs, **AT_ONCE)


def _if_chosen(name: str, begin: Begin) -> Callable[..., list[Any]]:
    def handler(chosen: str, *inputs: Any) -> list[Any]:
        if chosen != name:
            return [*(gr.skip() for _ in begin.outputs[1:]), ""]
        result: list[Any] = begin.handler(*inputs)
        return result

    return handler


def query_of(address: str) -> dict[str, str]:
    """The names and values in the query of an address."""
    return dict(parse_qsl(address[:LONGEST].removeprefix("?"), keep_blank_values=True))


def read(query: Mapping[str, str], linked: Linked) -> tuple[dict[str, Any], list[str]]:
    """The values of a tab's controls, and a sentence on each that is none of its control."""
    values: dict[str, Any] = {}
    refused = []
    for name, control in linked.items():
        if name in query:
            value = _parse(query[name], control)
            try:
                check_inputs([control], [value], None)
            except ValueError as error:
                refused.append(f"In the address, {error}")
            else:
                values[name] = value
    return values, refused


def name_controls(
    names: Iterable[str], controls: Iterable[Any], taken: Iterable[str]
) -> dict[str, Any]:
    """Controls of a context by the names of its variables, or "context.NAME" if one is taken."""
    reserved = {TAB, *taken}
    pairs = zip(names, controls, strict=True)
    return {f"context.{name}" if name in reserved else name: control for name, control in pairs}


def _parse(text: str, control: Any) -> Any:
    """The value of a control that a text stands for; the text itself where it is none."""
    if isinstance(control, gr.Slider | gr.Number):
        try:
            return int(text) if control.precision == 0 else float(text)
        except ValueError:
            return text
    if isinstance(control, gr.Checkbox):
        return {"true": True, "false": False}.get(text, text)
    return next((value for _, value in control.choices if str(value) == text), text)
