"""Training in several processes: how many there are, who speaks, and what ends all if one is lost.

Lightning starts those of one machine, or `torchrun` or SLURM do. Their gradients meet over gloo or
NCCL, where a process that is gone shows as a broken connection, or, if all others are busy with
something else, not at all: so those of one machine watch each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from diffeo.training.options import TrainerOptions

LOOK, GRACE = 0.2, 10.0  # seconds between two looks; and to say oneself what went wrong
# Set for the processes that Lightning starts: who started them.
PARENT = "DIFFEO_PARENT"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def is_first() -> bool:
    """Whether this process is the one that writes and speaks, before Lightning knows of any."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def launched(options: TrainerOptions) -> TrainerOptions:
    """The options with as many devices and machines as `torchrun` or SLURM have started."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        devices, nodes = environment["LOCAL_WORLD_SIZE"], environment["GROUP_WORLD_SIZE"]
    elif _by_slurm():
        nodes = environment.get("SLURM_NNODES", "1")
        devices = str(int(environment["SLURM_NTASKS"]) // int(nodes))
        environment["SLURM_NTASKS_PER_NODE"] = devices  # which Lightning asks for
    else:
        return options
    return dataclasses.replace(options, devices=int(devices), num_nodes=int(nodes))


def cluster() -> list[SLURMEnvironment]:
    """What Lightning is told of SLURM: it is not to write checkpoints of its own in mid-epoch."""
    return [SLURMEnvironment(auto_requeue=False)] if _by_slurm() else []


def _by_slurm() -> bool:
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    alone = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return tasks > 1 and not alone and "TORCHELASTIC_RUN_ID" not in os.environ


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Lightning's words where it cannot train with what was asked for, as an error of the user's.

    Raises:
        ValueError: with its first sentence.
    """
    try:
        yield
    except MisconfigurationException as error:
        reason, *_ = " ".join(str(error).split()).split(". ")
        raise ValueError(
            f"Lightning cannot train so: {reason.rstrip('.')}; change the options of --trainer."
        ) from error


class Together:
    """While it lasts, the loss of one process ends all the others, with one sentence.

    Args:
        trainer: that of this process.
        folder: the run, which the sentence says how to go on with.

    Raises:
        ConnectionError: on leaving, if another process was lost.
    """

    def __init__(self, trainer: pl.Trainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder
        self.children: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        launcher = trainer.strategy.launcher
        self.launcher = launcher if isinstance(launcher, _SubprocessScriptLauncher) else None
        self.local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        self.child = self.local > 0 and PARENT in os.environ
        self.parent = 0
        if self.child:
            self.parent = int(os.environ[PARENT])
        elif "TORCHELASTIC_RUN_ID" in os.environ:
            self.parent = os.getppid()

    def __enter__(self) -> Self:
        if self.trainer.world_size > 1:
            # Where it says that each process is there.
            logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
            if not self.local:
                os.environ[PARENT] = str(os.getpid())
            threading.Thread(target=self._watch, name="diffeo-together", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over.set()
        if self.trainer.world_size == 1:
            return
        os.environ.pop(PARENT, None)
        if error is None:
            return
        lost = _is_loss(error)
        who = self._wait_for_the_lost() if lost else ""
        self._end_children()
        if lost and self._speaks():
            raise ConnectionError(self._sentence(who)) from error
        # What all have met, or were told, the first one says.
        shared = isinstance(error, FloatingPointError | KeyboardInterrupt)
        if lost or (shared and not self._speaks()):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from error

    # What is watched ----------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self.over.wait(LOOK):
            self._adopt()
            if self._lost_child() or self._orphaned():
                break
        # Who waits for the lost one in an exchange is told by the broken connection. torchrun takes
        # part in none.
        if self.over.wait(GRACE if self.child or self.children else 0):
            return
        self._end(self._lost_child())

    def _adopt(self) -> None:
        """Take over the processes that Lightning has started.

        It would kill this one, without a word, when it sees that one of them has ended.
        """
        if self.launcher is None or self.children:
            return
        if len(self.launcher.procs) == self.launcher.num_processes - 1:
            self.children = list(self.launcher.procs)
            self.launcher.procs.clear()

    def _lost_child(self) -> str:
        """Which process of this machine has failed and how, or nothing."""
        for local, child in enumerate(self.children, start=1):
            status = child.poll()
            if status:
                rank = self.trainer.node_rank * len([self, *self.children]) + local
                how = f"exit status {status}"
                if status < 0:
                    how = f"killed by {signal.Signals(-status).name}"
                return f"process {rank} of {self.trainer.world_size} ({how})"
        return ""

    def _orphaned(self) -> bool:
        return bool(self.parent) and os.getppid() != self.parent

    # How it ends --------------------------------------------------------------------------------

    def _wait_for_the_lost(self) -> str:
        """Who it was, if that shows soon: its connection broke a moment before it was gone."""
        until = time.monotonic() + 2
        while time.monotonic() < until:
            self._adopt()
            if (who := self._lost_child()) or self._orphaned():
                return who
            time.sleep(LOOK / 4)
        return ""

    def _speaks(self) -> bool:
        """Whether this process is the one of its machine that says what went wrong."""
        return self.local == int(self.child and self._orphaned())

    def _sentence(self, who: str) -> str:
        command = shlex.join(["diffeo", "train", "--resume", str(self.folder)])
        lost = who or "another process of this run"
        return f"{lost} was lost and all were ended: {command} goes on from the last checkpoint."

    def _end(self, who: str) -> NoReturn:
        """From beside the main thread, which may wait for ever."""
        if self._speaks():
            print(f"diffeo: {self._sentence(who)}", file=sys.stderr, flush=True)  # noqa: T201
        self._end_children()
        os._exit(2)

    def _end_children(self) -> None:
        self._adopt()
        for child in self.children:
            child.kill()


def _is_loss(error: BaseException) -> bool:
    """Whether an exchange broke off because its other side is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()
