"""One part computed by one thread, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffeo.scale.parts import Part


@dataclass(frozen=True)
class Done:
    """The result of one part."""

    rows: int = 0  # that were written
    notes: tuple[str, ...] = ()  # sentences for the user
    problem: str = ""  # why it failed, in a sentence
    fatal: bool = False  # whether all others will fail too, as on a full disk


# Computes a part and puts it in its place.
Work = Callable[[Part], Done]


def attempt(work: Work, part: Part) -> Done:
    """Compute a part by one thread: the number of threads may change the last digit of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(part)
    except (ValueError, FloatingPointError) as error:
        return Done(problem=" ".join(str(error).split()))
    except OSError as error:
        return Done(problem=f"{part.name} cannot be written: {error.strerror or error}", fatal=True)
    finally:
        torch.set_num_threads(threads)
