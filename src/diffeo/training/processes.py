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
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from torch import nn

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
        self.rank, self.world, self.local = rank, world, local
        self.device, self.starts, self.resume = device, starts, resume
        self.children: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        self.parent = 0
        self.is_child = local > 0 and PARENT in os.environ
        if self.is_child:
            self.parent = int(os.environ[PARENT])
        elif "TORCHELASTIC_RUN_ID" in os.environ:
            self.parent = os.getppid()

    @classmethod
    def launched(cls, devices: int, device: str = "cpu", resume: str = "") -> Self:
        """Those that were started already, or else as many as devices, which are started later."""
        if _by_slurm() and "RANK" not in os.environ:
            os.environ.update(_from_slurm(os.environ))
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            local = int(os.environ.setdefault("LOCAL_RANK", "0"))
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
        local = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
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
            port = probe.getsockname()[1]
        size = str(self.world)
        values = ("0", "0", size, size, "127.0.0.1", str(port))
        os.environ.update(zip(NAMES, values, strict=True))
        for rank in map(str, range(1, self.world)):
            changes = {"RANK": rank, "LOCAL_RANK": rank, PARENT: str(os.getpid())}
            command = [sys.executable, *sys.orig_argv[1:]]
            self.children.append(subprocess.Popen(command, env=os.environ | changes))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over.set()
        if self.world == 1:
            return
        if self.starts:
            for name in NAMES:
                os.environ.pop(name, None)
        if error is None:
            self.accelerator.end_training()
            return
        lost = _is_loss(error)
        name = self._wait_for_the_lost() if lost else ""
        self._end_children()
        if lost and self._reports():
            raise ConnectionError(self._sentence(name)) from error
        # What all processes meet or are asked, the first one reports.
        shared = isinstance(error, FloatingPointError | KeyboardInterrupt)
        if lost or (shared and not self._reports()):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from error

    # Watching -----------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self.over.wait(LOOK):
            if self._lost_child() or self._is_orphan():
                break
        # One that waits for the lost one in an exchange meets the broken connection. torchrun takes
        # part in none.
        if self.over.wait(GRACE if self.is_child or self.children else 0):
            return
        self._end(self._lost_child())

    def _lost_child(self) -> str:
        """Which process that this one started has failed, and how; or nothing."""
        for rank, child in enumerate(self.children, start=1):
            status = child.poll()
            if status:
                how = f"exit status {status}"
                if status < 0:
                    how = f"killed by {signal.Signals(-status).name}"
                return f"process {rank} of {self.world} ({how})"
        return ""

    def _is_orphan(self) -> bool:
        return bool(self.parent) and os.getppid() != self.parent

    # Ending -------------------------------------------------------------------------------------

    def _wait_for_the_lost(self) -> str:
        """Which process it was, if that shows soon: its connection breaks a moment earlier."""
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if (name := self._lost_child()) or self._is_orphan():
                return name
            time.sleep(LOOK / 4)
        return ""

    def _reports(self) -> bool:
        """Whether this process is the one of its machine that reports an error."""
        return self.local == int(self.is_child and self._is_orphan())

    def _sentence(self, name: str) -> str:
        lost = name or "another process of this training"
        return (
            f"{lost} was lost and all were ended: {self.resume} goes on from the last checkpoint."
        )

    def _end(self, name: str) -> NoReturn:
        """End from outside the main thread, which may wait for ever."""
        if self._reports():
            print(f"diffeo: {self._sentence(name)}", file=sys.stderr, flush=True)  # noqa: T201
        self._end_children()
        os._exit(2)

    def _end_children(self) -> None:
        for child in self.children:
            child.kill()


def _by_slurm() -> bool:
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return tasks > 1 and not interactive and "TORCHELASTIC_RUN_ID" not in os.environ


def _from_slurm(job: Any) -> dict[str, str]:
    """The variables of torchrun for a task of SLURM."""
    nodes = int(job.get("SLURM_NNODES", "1"))
    # node[03-05,9],other: the first is node03.
    first = re.sub(r"\[([^-,\]]+)[^\]]*\]", r"\1", job.get("SLURM_NODELIST", "127.0.0.1"))
    return {
        "RANK": job["SLURM_PROCID"],
        "LOCAL_RANK": job.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": job["SLURM_NTASKS"],
        "LOCAL_WORLD_SIZE": str(int(job["SLURM_NTASKS"]) // nodes),
        "MASTER_ADDR": job.get("MASTER_ADDR", first.split(",")[0]),
        # Of each job another one, in case that two share a machine.
        "MASTER_PORT": job.get("MASTER_PORT", str(10_000 + int(job["SLURM_JOB_ID"]) % 20_000)),
    }


def _is_loss(error: BaseException) -> bool:
    """Whether an exchange broke off because its other side is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()
