"""One part done by one thread, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffeo.scale.parts import Part


@dataclass(frozen=True)
class Done:
    """What came of one part.

    Args:
        rows: how many were written.
        notes: sentences for the user.
        problem: why it could not be done, in a sentence.
        fatal: whether others will fare no better, as where the disk is full.
    """

    rows: int = 0
    notes: tuple[str, ...] = ()
    problem: str = ""
    fatal: bool = False


# Computes a part and puts it in its place.
Work = Callable[[Part], Done]


def attempt(work: Work, part: Part) -> Done:
    """Do a part, or say why not.

    By one thread, wherever it runs: the number of threads may change the last digit of a sum.
    """
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
