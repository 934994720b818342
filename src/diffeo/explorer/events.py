"""Events of the page that always have an answer: what goes wrong is a sentence on the page.

The last output of each event is the message of its tab. `Page` checks what a visitor sends, and
writes the sentence there; all else on the page stays as it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import gradio as gr

from diffeo.explorer import images

BROKEN = "That did not work; the terminal says why."
INCOMPLETE = "the page and the model do not fit each other: load the page again."
FORGOTTEN = "the images of this tab are not here: wait for them, or load the page again."
UNREADABLE = "a control sent what cannot be read: load the page again."
LARGEST = 1e300  # number
LISTED = 12  # choices that a sentence names


class Page(gr.Blocks):
    """A page of Gradio whose events never fail."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> Any:
        """The inputs of a handler.

        Raises:
            ValueError: if one of them is not what its control can be set to.
        """
        check_inputs(block_fn.inputs, inputs, state)
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Exception as error:
            raise ValueError(UNREADABLE) from error

    async def process_api(
        self, block_fn: Any, inputs: list[Any], state: Any = None, *args: Any, **options: Any
    ) -> dict[str, Any]:
        """The answer to an event, whatever happens."""
        sentence, answer = BROKEN, {"is_generating": False, "duration": 0, "average_duration": 0}
        if block_fn.fn is None:  # what the browser does alone is not to be asked for
            return {"data": [], **answer}
        try:
            return await super().process_api(block_fn, inputs, state, *args, **options)
        except ValueError as error:
            sentence = " ".join(str(error).split()).removesuffix(".") + "."
        except Exception:  # a visitor sees a sentence, and the terminal the rest
            traceback.print_exc()
        unchanged = [gr.skip() for _ in block_fn.outputs[1:]]
        data = await self.postprocess_data(block_fn, [*unchanged, images.trouble(sentence)], state)
        return {"data": data, **answer}


def answers(handler: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Let a handler clear the message: it returns one output, or a list of all others."""

    @wraps(handler)
    def answer(*inputs: Any) -> list[Any]:
        result = handler(*inputs)
        return [*(result if isinstance(result, list) else [result]), ""]

    # Gradio asks a handler how many arguments it takes.
    return answer


def check_inputs(controls: Sequence[Any], values: Sequence[Any], state: Any) -> None:
    """Refuse what the page itself would not send, and numbers that are out of range.

    Args:
        controls: the inputs of an event.
        values: what was sent for each.
        state: what is remembered of the visitor, by the id of its component.

    Raises:
        ValueError: one sentence that names the control, its value and what it can be.
    """
    if len(values) != len(controls):
        raise ValueError(INCOMPLETE)
    for control, value in zip(controls, values, strict=True):
        if isinstance(control, gr.State):
            if state is None or state[control._id] is None:
                raise ValueError(FORGOTTEN)
        elif isinstance(control, gr.Slider | gr.Number):
            _check_number(control, value)
        elif isinstance(control, gr.Checkbox):
            if not isinstance(value, bool):
                raise _refusal(control, value, "choose yes or no.")
        elif isinstance(control, gr.Textbox):
            if not isinstance(value, str):
                raise _refusal(control, value, "load the page again.")
        elif isinstance(control, gr.Radio | gr.Dropdown):
            _check_choice(control, value)
        elif isinstance(control, gr.CheckboxGroup):
            if not isinstance(value, list):
                raise _refusal(control, value, "choose some, or none.")
            for one in value:
                _check_choice(control, one)


def _check_number(control: Any, value: Any) -> None:
    low, high, whole = control.minimum, control.maximum, control.precision == 0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number and (low is None or value >= low) and (high is None or value <= high)
    # No number, infinity, and what no float can hold are refused as well.
    if not (fits and abs(value) <= LARGEST and (not whole or value == round(value))):
        remedy = "write a whole number" if whole else "write a number"
        if low is not None and high is not None:
            remedy += f" from {_words(low)} to {_words(high)}"
        raise _refusal(control, value, remedy + ".")


def _check_choice(control: Any, value: Any) -> None:
    choices = [choice for _, choice in control.choices]
    # A list is in no list of texts, but asking would compare it with each; and 1 is no True.
    if type(value) not in {type(choice) for choice in choices} or value not in choices:
        names = [str(name) for name, _ in control.choices]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise _refusal(control, value, f"choose from {', '.join(names[:LISTED])}{more}.")


def _refusal(control: Any, value: Any, remedy: str) -> ValueError:
    name = str(control.label).removesuffix(", %")
    name = f'"{name}"' if " " in name else name
    if value is None or value == "":
        return ValueError(f"{name} is empty: {remedy}")
    return ValueError(f"{name} is {_words(value)}: {remedy}")


def _words(value: Any) -> str:
    """A value as a visitor would write it, in few letters."""
    if isinstance(value, float):
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write very long numbers.
        return str(value).replace("-", "\N{MINUS SIGN}") if abs(value) < 10**15 else "too large"
    text = repr(value) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 40 else text[:40] + "…'"
