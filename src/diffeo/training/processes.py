"""Training in several processes: how many there are, and what ends them all if one is lost.

torchrun, `accelerate launch` or SLURM start them, or the first one starts the others. Accelerate
connects them. A process that is gone shows as a broken connection or, while the others do something
else, not at all: so the processes of a machine watch each other.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from typing import Any, Self

import torch
from torch import nn

from diffeo.utils.machine import widest

LOOK, GRACE = 0.2, 10.0  # seconds between two looks, and for a process to report its own error
# Set for the processes that the first one starts: its process id.
PARENT = "DIFFEO_PARENT"
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Processes:
    """The processes of a training; while the context lasts, they are connected.

    Args:
        rank: which one this is; the first writes and prints.
        world: how many there are.
        local: which one of this machine this is.
        device: "cpu", or that of their GPUs.
        starts: whether this one starts the others, by its own command line.
        resume: the command that continues the training, for the sentence when one is lost.

    Raises:
        ConnectionError: on leaving, if another process was lost.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        local: int = 0,
        *,
        device: str = "cpu",
        starts: bool = False,
        resume: str = "",
    ) -> None:
        self.rank = rank
        self.world = world
        self.local = local
        self.device = device
        self.starts = starts
        self.resume = resume
        self.accelerator: Any
        self.children: list[subprocess.Popen[bytes]] = []
        self.over: threading.Event = threading.Event()
        self.is_child: bool = local > 0 and PARENT in os.environ
        self.parent: int = int(os.environ[PARENT]) if self.is_child else 0
        if not self.is_child and "TORCHELASTIC_RUN_ID" in os.environ:
            self.parent = os.getppid()

    @classmethod
    def launched(cls, devices: int, device: str = "cpu", resume: str = "") -> Self:
        """Those that were started already, or as many as devices, of which this is the first."""
        environ = os.environ
        by_slurm = environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
        if by_slurm and int(environ.get("SLURM_NTASKS", "1")) > 1 and "RANK" not in environ:
            environ.update(_from_slurm(environ))
        if int(environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in environ:
            rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
            local = int(environ.setdefault("LOCAL_RANK", "0"))
            return cls(rank, world, local, device=device, resume=resume)
        return cls(0, devices, device=device, starts=devices > 1, resume=resume)

    def place(self, device: torch.device) -> torch.device:
        """The device of this process, of those of its kind."""
        if device.type != "cuda" or self.world == 1:
            return device
        return torch.device("cuda", self.local % torch.cuda.device_count())

    def wrap(self, model: nn.Module) -> nn.Module:
        """A model whose gradients are means over all processes."""
        return model if self.world == 1 else self.accelerator.prepare_model(model)

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        if self.world == 1:
            return value
        device = self.accelerator.device
        local = torch.tensor(value, dtype=widest(device), device=device)
        return float(self.accelerator.reduce(local, "sum"))

    def __enter__(self) -> Self:
        if self.world == 1:
            return self
        if self.starts:
            self._start_others()
        threading.Thread(target=self._watch, name="diffeo-processes", daemon=True).start()
        from accelerate import Accelerator

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="accelerate")
            self.accelerator = Accelerator(cpu=self.device == "cpu", mixed_precision="no")
        return self

    def _start_others(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        size = str(self.world)
        os.environ.update(zip(NAMES, ("0", "0", size, size, "127.0.0.1", port), strict=True))
        for rank in map(str, range(1, self.world)):
            changes = {"RANK": rank, "LOCAL_RANK": rank, PARENT: str(os.getpid())}
            command = [sys.executable, *sys.orig_argv[1:]]
            self.children.append(subprocess.Popen(command, env=os.environ | changes))

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.over.set()
        if self.world == 1:
            return
        # PyTorch frees a group of gloo while it holds the interpreter's lock, and waits for threads
        # that may need this lock to free the tensors of the last exchange: let them have it first.
        time.sleep(0.1)
        if self.starts:
            for name in NAMES:
                os.environ.pop(name, None)
        if error is None:
            self.accelerator.end_training()
            return
        lost = isinstance(error, torch.distributed.DistError) or (
            isinstance(error, RuntimeError) and "gloo" in str(error).lower()
        )
        # An exchange broke off because its other side is gone: soon it shows which one that was.
        end = time.monotonic() + (2 if lost else 0)
        while time.monotonic() < end and not self._lost_child() and not self._is_orphan():
            time.sleep(LOOK / 4)
        name = self._lost_child()
        self._end_children()
        if lost and self._reports():
            raise ConnectionError(self._sentence(name)) from error
        # What all processes meet or are asked, the first one reports.
        shared = isinstance(error, FloatingPointError | KeyboardInterrupt)
        if lost or (shared and not self._reports()):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from error

    def _watch(self) -> None:
        """End from outside the main thread, which may wait for ever, if another one is lost."""
        while not self._lost_child() and not self._is_orphan():
            if self.over.wait(LOOK):
                return
        # One that waits for the lost one in an exchange meets the broken connection. torchrun takes
        # part in none.
        if self.over.wait(GRACE if self.is_child or self.children else 0):
            return
        if self._reports():
            text = f"diffeo: {self._sentence(self._lost_child())}"
            print(text, file=sys.stderr, flush=True)  # noqa: T201
        self._end_children()
        os._exit(2)

    def _lost_child(self) -> str:
        """Which process that this one started has failed, and how; or nothing."""
        for rank, child in enumerate(self.children, start=1):
            if status := child.poll():
                how = f"exit status {status}"
                if status < 0:
                    how = f"killed by {signal.Signals(-status).name}"
                return f"process {rank} of {self.world} ({how})"
        return ""

    def _is_orphan(self) -> bool:
        return bool(self.parent) and os.getppid() != self.parent

    def _reports(self) -> bool:
        """Whether this process is the one of its machine that reports an error."""
        return self.local == int(self.is_child and self._is_orphan())

    def _sentence(self, name: str) -> str:
        lost = name or "another process of this training"
        return (
            f"{lost} was lost and all were ended: {self.resume} goes on from the last checkpoint."
        )

    def _end_children(self) -> None:
        for child in self.children:
            child.kill()


def _from_slurm(job: Any) -> dict[str, str]:
    """The variables of torchrun for a task of SLURM."""
    # node[03-05,9],other: the first is node03.
    first = re.sub(r"\[([^-,\]]+)[^\]]*\]", r"\1", job.get("SLURM_NODELIST", "127.0.0.1"))
    return {
        "RANK": job["SLURM_PROCID"],
        "LOCAL_RANK": job.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": job["SLURM_NTASKS"],
        "LOCAL_WORLD_SIZE": str(int(job["SLURM_NTASKS"]) // int(job.get("SLURM_NNODES", "1"))),
        "MASTER_ADDR": job.get("MASTER_ADDR", first.split(",")[0]),
        # Of each job another one, in case that two share a machine.
        "MASTER_PORT": job.get("MASTER_PORT", str(10_000 + int(job["SLURM_JOB_ID"]) % 20_000)),
    }
