"""Edit: a slider for each attribute."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffeo.explorer import editing, images, mixing, uploads
from diffeo.explorer.events import answers
from diffeo.explorer.mixing import Slot
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import (
    AT_ONCE,
    BROUGHT,
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


def add(subject: Subject) -> Any:
    """Lay out the tab; what is to be done when the page is opened, or None."""
    by_condition = editing.by_condition(subject)
    if not by_condition and not subject.attributes:
        gr.HTML(images.note(NONE))
        return None
    slot = gr.State(None)
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
        x = editing.edit(subject, slot, values)
        return images.captioned(x[0], editing.changed(slot.x[0], x[0]), "After")

    def chosen(slot: Slot) -> list[Any]:
        values = editing.rest(subject, slot)
        first = images.captioned(slot.x[0], slot.caption, "Before")
        return [slot, first, shown(slot, values), *values]

    outputs = [slot, before, after, *controls, message]

    @answers
    def begin() -> list[Any]:
        if not by_condition:
            _ = subject.directions  # found now, so that no slider waits for them
        return chosen(mixing.slot(subject, *subject.image(0)))

    @answers
    def choose(slot: Slot) -> list[Any]:
        words = slot.caption.rsplit(" ", 1)[-1]
        number = int(words) + 1 if words.isdigit() else 0
        return chosen(mixing.slot(subject, *subject.image(number)))

    @answers
    def bring(event: gr.EventData) -> list[Any]:
        file = uploads.receive(sent(event, "files"))[0]
        x, name = uploads.read_image(subject, file)
        return chosen(mixing.slot(subject, x, None, name))

    @answers
    def undo(slot: Slot) -> list[Any]:
        return chosen(slot)

    @answers
    def move(slot: Slot, *values: Any) -> str:
        return shown(slot, list(values))

    another.click(choose, slot, outputs, **AT_ONCE)
    own.upload(bring, None, outputs, **BROUGHT)
    reset.click(undo, slot, outputs, **AT_ONCE)
    for control in controls:
        on_move(control, move, [slot, *controls], [after, message])
    return begin, [], outputs


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
