"""What a fit prints, and how it uses the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from diffeo.training.loop import Observer, Training

LOCK = threading.Lock()


class Printed(Observer):
    """Prints the likelihood at each validation."""

    def on_epoch_end(self, training: Training) -> None:
        print(  # noqa: T201
            f"step {training.step}/{training.steps}  log-likelihood in training "
            f"{-training.train_loss:.4f}, held out {-training.val_loss:.4f}  "
            f"{training.seconds:.1f} s"
        )


@contextmanager
def usual_defaults() -> Iterator[None]:
    """float32 on the CPU for what is made, whatever the program's defaults are; one thread at once.

    Where the CPU is the default, it is not set again: torch would call Python at each operation.
    """
    place = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with LOCK, place:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
