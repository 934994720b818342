"""Training in several processes: one is killed, all end, and others go on, as many or fewer."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from .promises import Observation, Promise

BATCH, EPOCHS = 512, 16  # rows of one step, of all processes together
TRAIN = "-m diffeo.cli train --data moons --data.rows 2000 --model.layers 4 --trainer.patience 1000"
TRAIN += f" --trainer.device cpu --trainer.max_epochs {EPOCHS} --trainer.figure_every 8"
LIMIT, ENDED = 300.0, 60.0  # seconds: of a whole run, and from a kill to the end of all


class Training:
    """A run in processes of its own, which are found by the folder in their words."""

    def __init__(self, folder: Path, processes: int, torchrun: bool = False) -> None:
        self.folder, self.log = folder, folder.with_name(f"{folder.name}-{time.monotonic_ns()}.log")
        resume = "--resume" if (folder / "config.yaml").is_file() else "--out"
        words = [*TRAIN.split(), resume, f"{folder}", f"--trainer.batch_size={BATCH // processes}"]
        if torchrun:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            launch = f"-m torch.distributed.run --nproc-per-node={processes} --master-port={port}"
            words = [*launch.split(), *words]
        else:
            words.append(f"--trainer.devices={processes}")
        with self.log.open("wb") as log:
            command = [sys.executable, *words]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def alive(self) -> list[int]:
        """The processes that live, the first one first."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{self.folder}".encode() in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
        return sorted(found)

    def epochs(self) -> list[str]:
        file = self.folder / "metrics.csv"
        return file.read_text().splitlines()[1:] if file.is_file() else []

    def end(self, seconds: float = LIMIT) -> tuple[int, str]:
        """Wait until all have ended, or end them: the exit status, and what was printed."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None or self.alive():
            for pid in self.alive() if time.monotonic() > limit else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        text = self.log.read_text(errors="replace")
        return self.process.returncode, text + "hung" * (time.monotonic() > limit)


@cache
def undisturbed(folder: Path) -> list[str]:
    training = Training(folder, 2)
    status, text = training.end()
    if status or len(training.epochs()) != EPOCHS:
        raise RuntimeError(text)
    return training.epochs()


def losses(folder: Path, sample: bool) -> list[tuple[Path, bool, int | None, int, int]]:
    """The folder; whether torchrun starts it; which is killed, after what epoch; how many go on."""
    if sample:
        return [(folder / "0", False, 1, 3, 1)]
    undisturbed(folder.parent / "undisturbed")
    cases = [(False, 1, 0, 2), (False, 0, 6, 2), (False, 1, 3, 1), (False, 0, 9, 1)]
    cases += [(True, None, 16, 2), (True, 2, 2, 2), (True, 0, 4, 2)]
    return [(folder / f"{i}", *case) for i, case in enumerate(cases)]


def lose(loss: tuple[Path, bool, int | None, int, int]) -> Observation:
    folder, torchrun, which, epochs, processes = loss
    run, wrong = Training(folder, 2, torchrun), []
    name = "torchrun" if torchrun else "its own processes"
    if which is not None:
        limit = time.monotonic() + LIMIT
        while len(run.alive()) <= which or len(run.epochs()) < epochs:
            if run.process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"epoch {epochs} was not reached: {run.end(0)}")
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.3))
        os.kill(run.alive()[which], signal.SIGKILL)
        status, text = run.end(ENDED)
        # torchrun reports its workers itself, and prints tracebacks of its own.
        good = torchrun or ("--resume" in text and "Traceback" not in text)
        if not good or not status or text.endswith("hung") or text.count("diffeo: ") > 1:
            wrong.append(f"status {status}: {text}")
        before = run.epochs()[:-1]  # the last one may not have been saved yet
        run = Training(folder, processes)
        name += f", {which} killed, resumed with {processes}"
        status, text = run.end()
        if run.epochs()[: len(before)] != before:
            wrong.append("an epoch that was over has changed")
    else:
        status, text = run.end()
    if status or len(run.epochs()) != EPOCHS:
        wrong.append(f"status {status}, {len(run.epochs())} epochs: {text}")
    whole = folder.parent.parent / "undisturbed"
    if whole.exists() and processes == 2 and run.epochs() != undisturbed(whole):
        wrong.append("the metrics are not those of an undisturbed run")
    return Observation(name, wrong)


ATTEMPT = "Two processes, of diffeo or torchrun; SIGKILL of one, then `--resume` with two or one"
HOLDS = "all end within a minute, with a sentence; no epoch is lost; two go on as if undisturbed"
PROMISES = [Promise(ATTEMPT, HOLDS, losses, lose, workers=1)]
