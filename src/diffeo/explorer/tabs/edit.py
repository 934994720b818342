"""Edit: a slider for each attribute."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from diffeo.explorer import editing, images, mixing, uploads
from diffeo.explorer.events import answers
from diffeo.explorer.links import name_controls
from diffeo.explorer.mixing import Slot
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import (
    AT_ONCE,
    BROUGHT,
    Begin,
    context_controls,
    on_move,
    sent,
    title,
    upload,
)

NONE = (
    "This model is not conditional on anything, and its data have no labels or attributes at hand, "
    "so that there is no attribute to move. Explore a run whose images have some."
)


NOTHING: Mapping[str, Any] = MappingProxyType({})


def add(subject: Subject) -> Begin | None:
    """Lay out the tab; what is to be done when the page is opened, or None."""
    by_condition = editing.by_condition(subject)
    if not by_condition and not subject.attributes:
        gr.HTML(images.note(NONE))
        return None
    slot, wanted = gr.State(None), gr.State({})
    # Which image it is, for the address of the page; -1 for one's own.
    number = gr.Number(
        0, label="Image", precision=0, minimum=-1, visible="hidden", elem_id="number"
    )
    with gr.Row(elem_classes="pair wide"):
        another = gr.Button("Another image", elem_id="another", min_width=130)
        own = upload("Your own image", elem_id="own")
        reset = gr.Button("Reset", elem_id="reset", min_width=90)
    message = gr.HTML(elem_id="edit-trouble", elem_classes="message")
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=2, min_width=280, elem_classes="controls"):
            gr.HTML(images.note(_explanation(by_condition)))
            if by_condition:
                controls = context_controls(subject.conditions, any_of=False)
            else:
                controls = [
                    gr.Slider(
                        -editing.FURTHEST, editing.FURTHEST, value=0, step=0.05, label=title(name)
                    )
                    for name in subject.attributes
                ]
        with (
            gr.Column(scale=3, min_width=280, elem_classes="sticky first"),
            gr.Row(elem_classes="before-after"),
        ):
            before = gr.HTML(elem_id="before", elem_classes="stage", min_width=130)
            after = gr.HTML(elem_id="after", elem_classes="stage", min_width=130)

    def shown(slot: Slot, values: list[Any]) -> str:
        x = editing.edit(subject, slot, values)[0]
        save = images.save_link(images.pixels_of(x), "edited.png")
        return images.captioned(x, editing.changed(slot.x[0], x), "After") + save

    def chosen(slot: Slot, number: int, wanted: Mapping[str, Any] = NOTHING) -> list[Any]:
        pairs = zip(named, editing.rest(subject, slot), strict=True)
        values = [wanted.get(name, value) for name, value in pairs]
        first = images.captioned(slot.x[0], slot.caption, "Before")
        return [slot, first, shown(slot, values), *values, number]

    def numbered(number: int, wanted: Mapping[str, Any] = NOTHING) -> list[Any]:
        number = max(0, number) % subject.image_count
        return chosen(mixing.slot(subject, *subject.image(number)), number, wanted)

    names = [control.name for control in subject.conditions.controls]
    named = name_controls(names if by_condition else subject.attributes, controls, ["image"])
    outputs = [slot, before, after, *controls, number, message]

    @answers
    def begin(wanted: Mapping[str, Any]) -> list[Any]:
        if not by_condition:
            _ = subject.directions  # found now, so that no slider waits for them
        return numbered(wanted.get("image", 0), wanted)

    @answers
    def choose(number: int) -> list[Any]:
        return numbered(number + 1)

    @answers
    def bring(event: gr.EventData) -> list[Any]:
        file = uploads.receive(sent(event, "files"))[0]
        x, name = uploads.read_image(subject, file)
        return chosen(mixing.slot(subject, x, None, name), -1)

    @answers
    def undo(slot: Slot, number: int) -> list[Any]:
        return chosen(slot, number)

    @answers
    def move(slot: Slot, *values: Any) -> str:
        return shown(slot, list(values))

    another.click(choose, number, outputs, **AT_ONCE)
    own.upload(bring, None, outputs, **BROUGHT)
    reset.click(undo, [slot, number], outputs, **AT_ONCE)
    for control in controls:
        on_move(control, move, [slot, *controls], [after, message])
    return Begin(begin, [wanted], outputs, {"image": number} | named, wanted)


def _explanation(by_condition: bool) -> str:
    if by_condition:
        return (
            "The model is conditional on these. The noise of the image stays, and is decoded "
            "under what you choose."
        )
    return (
        "Each slider moves the image along the direction of an attribute, found in the "
        "training images: at 1 as far as images without it lie from those with it."
    )
