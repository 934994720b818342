"""Training in several processes: one is killed, and others go on, as many or fewer or more."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from faults.outcomes import Outcome

BATCH, EPOCHS = 512, 16  # rows of one step, of all processes together
TRAIN = (
    "-m",
    "diffeo.cli",
    "train",
    "--data",
    "moons",
    "--data.rows",
    "2000",
    "--model.layers",
    "4",
)
TRAIN += ("--trainer.device", "cpu", "--trainer.max_epochs", str(EPOCHS))
TRAIN += ("--trainer.patience", "1000", "--trainer.figure_every", "8")
LIMIT, ENDED = 120.0, 60.0  # seconds: for a whole run, and from a kill to the end of all
SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "4242"}
SLURM |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1"}


def attempt(folder: Path, sample: bool) -> Iterator[Outcome]:
    """Two processes over gloo, on one machine and on two that are names alone."""
    dice = random.Random(0)
    if sample:
        yield from kills(folder, [], dice, (1,))
        return
    whole = Training(folder / "whole", 2)
    whole.wait()
    expected = metrics(folder / "whole")
    if len(expected) != EPOCHS:
        yield Outcome("Two processes", 1, 1, whole.words())
        return
    yield from kills(folder, expected, dice, (0, 1, 0, 1))
    yield one_to_two(folder)
    yield started_by_others(folder, expected)
    yield worker_of_torchrun(folder)
    yield two_machines(folder, expected)


class Training:
    """A run in processes of its own, which are known by the folder in their words.

    Args:
        folder: the run.
        processes: how many.
        resume: whether to go on.
        command: what starts it, in place of Python.
        environment: variables beside those of this process.
        more: words at the end of the command.
    """

    def __init__(
        self,
        folder: Path,
        processes: int,
        *,
        resume: bool = False,
        command: tuple[str, ...] = (sys.executable,),
        environment: dict[str, str] | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        words = ("--trainer.devices", str(processes))
        words += ("--trainer.batch_size", str(BATCH // processes), *more)
        self.log = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *TRAIN, "--resume" if resume else "--out", str(folder), *words],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to one is none to the others
            )

    def all(self) -> list[int]:
        """Those that are alive, the first one first."""
        alive = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            # One that has ended and that nobody has asked about yet has no words left.
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in line.read_bytes().split(b"\0"):
                    alive.append(int(line.parent.name))
        return sorted(alive)

    def wait(self) -> int:
        """Until it ends by itself; its exit status."""
        try:
            return self.process.wait(LIMIT)
        finally:
            self.end()

    def end(self) -> None:
        """Leave nothing behind."""
        for pid in self.all():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def until(self, epochs: int) -> None:
        """Wait until both are there and so many epochs are over."""
        start = time.monotonic()
        while len(self.all()) < 2 or len(metrics(self.folder)) < epochs:
            if self.process.poll() is not None or time.monotonic() > start + LIMIT:
                raise RuntimeError(f"epoch {epochs} was not reached: {self.words()}")
            time.sleep(0.02)

    def kill(self, which: int) -> float:
        """Kill one of them; seconds until all have ended, infinity if some have not."""
        os.kill(self.all()[which], signal.SIGKILL)
        start = time.monotonic()
        while time.monotonic() < start + ENDED:
            self.process.poll()
            if not self.all():
                self.process.wait()
                return time.monotonic() - start
            time.sleep(0.05)
        self.end()
        return float("inf")

    def words(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")

    def sentences(self) -> list[str]:
        """The errors that it has told."""
        return [line for line in self.words().splitlines() if line.startswith("diffeo: ")]


def metrics(folder: Path) -> list[list[str]]:
    """The lines of a run's metrics, digit by digit."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def kills(
    folder: Path, expected: list[list[str]], dice: random.Random, ranks: tuple[int, ...]
) -> Iterator[Outcome]:
    """Kill one of two at a random moment, and resume the run with two and with one."""
    ended, wrong, differing, fewer, reached = [], [], 0, 0, []
    for number, rank in enumerate(ranks):
        run = Training(folder / f"killed-{number}", 2)
        # Before the first epoch is over, or after some; of the time that is left, at any moment.
        run.until(dice.randrange(EPOCHS - 4) if number or not expected else 0)
        time.sleep(dice.uniform(0, 0.5))
        ended.append(run.kill(rank))
        said = run.sentences()
        right = len(said) == 1 and "--resume" in said[0] and "Traceback" not in run.words()
        # Of the one that was killed itself there is no status of its own.
        right &= run.process.returncode == (2 if rank else -signal.SIGKILL)
        if not right:
            wrong.append(f"{run.process.returncode} {run.words()[-300:]}")
        kept = metrics(run.folder)
        reached.append(len(kept))
        # Each rank is killed once before either; without a whole run there is nothing to compare.
        processes = 2 if expected and number < 2 else 1
        again = Training(run.folder, processes, resume=(run.folder / "config.yaml").is_file())
        status, after = again.wait(), metrics(run.folder)
        if processes == 2:
            differing += status != 0 or after != expected
        else:
            # Those epochs stay, and all the others follow.
            epochs = [int(row[0]) for row in after] == list(range(1, EPOCHS + 1))
            stay = max(0, len(kept) - 1)  # the last line may be of an epoch not yet saved
            fewer += status != 0 or not epochs or after[:stay] != kept[:stay]
    yield Outcome(
        "SIGKILL of one of two processes at a random moment",
        len(ended),
        len(wrong) + sum(second > ENDED for second in ended),
        f"all ended within {max(ended):.1f} s, with one sentence and exit code 2"
        + "".join(f"; {line}" for line in wrong[:1]),
    )
    yield Outcome(
        "Such runs resumed with two processes or with one",
        len(ended),
        differing + fewer,
        f"from epoch {min(reached)} to {max(reached)} of {EPOCHS}, all of them there at the end"
        + ("; with two, the metrics of an unbroken run to the last digit" if expected else ""),
    )


def one_to_two(folder: Path) -> Outcome:
    """A run of one process, killed and resumed with two."""
    run = Training(folder / "one", 1)
    while len(metrics(run.folder)) < 3:
        time.sleep(0.02)
        if run.process.poll() is not None:
            break
    run.end()
    kept = metrics(run.folder)
    again = Training(run.folder, 2, resume=True)
    status, after = again.wait(), metrics(run.folder)
    lost = status != 0 or len(after) != EPOCHS or after[: len(kept) - 1] != kept[: len(kept) - 1]
    return Outcome(
        "A run of one process resumed with two",
        1,
        int(lost),
        f"from epoch {len(kept)}" + (f"; {again.words()[-300:]}" if lost else ""),
    )


def started_by_others(folder: Path, expected: list[list[str]]) -> Outcome:
    """The same run started by torchrun, and as SLURM starts it."""
    with_torchrun = Training(folder / "torchrun", 2, command=torchrun())
    lost = with_torchrun.wait() != 0 or metrics(with_torchrun.folder) != expected
    port = str(free_port())
    tasks = [
        Training(
            folder / "slurm",
            2,
            environment=SLURM | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_PORT": port},
        )
        for rank in ("0", "1")
    ]
    statuses = [task.wait() for task in tasks]
    bad = any(statuses) or metrics(folder / "slurm") != expected
    return Outcome(
        "The same run started by torchrun, and by SLURM's variables",
        2,
        lost + bad,
        "the metrics of the run that Lightning started, to the last digit"
        + (f"; {with_torchrun.words()[-300:]}" if lost else "")
        + (f"; {tasks[0].words()[-300:]}" if bad else ""),
    )


def worker_of_torchrun(folder: Path) -> Outcome:
    """A worker of torchrun is killed, and torchrun itself."""
    lost, seconds = 0, []
    for name, which in (("worker", 2), ("agent", 0)):
        run = Training(folder / f"torchrun-{name}", 2, command=torchrun())
        run.until(2)
        seconds.append(run.kill(which))
        lost += seconds[-1] > ENDED or len(metrics(run.folder)) == EPOCHS
        # torchrun tells of its workers itself.
        lost += name == "agent" and len(run.sentences()) != 1
    return Outcome(
        "SIGKILL of a worker of torchrun, and of torchrun itself",
        2,
        lost,
        f"all ended within {max(seconds):.1f} s",
    )


def two_machines(folder: Path, expected: list[list[str]]) -> Outcome:
    """A process each in a network of its own, joined by a cable, one of which is killed."""
    what = "Two machines (network namespaces), one process each, one machine killed"
    names, cable = ("diffeo-a", "diffeo-b"), ("diffeo-va", "diffeo-vb")
    try:
        _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
    except (OSError, subprocess.CalledProcessError) as error:
        return Outcome(what, 0, 0, f"not tried: it needs root and iproute2 ({error})")
    try:
        for number, (name, end) in enumerate(zip(names, cable, strict=True), start=1):
            _ip("netns", "add", name)
            _ip("link", "set", end, "netns", name)
            _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        whole = [on_machine(folder / "machines", names, cable, rank) for rank in (0, 1)]
        # Each by itself: to end one looks for all that work in the folder.
        statuses = [machine.process.wait(LIMIT) for machine in whole]
        same = not any(statuses) and metrics(folder / "machines") == expected
        broken = [on_machine(folder / "broken", names, cable, rank) for rank in (0, 1)]
        while len(metrics(folder / "broken")) < 2 and broken[0].process.poll() is None:
            time.sleep(0.02)
        broken[1].process.kill()
        start = time.monotonic()
        status, said = broken[0].wait(), broken[0].sentences()
        seconds = time.monotonic() - start
        told = status == 2 and len(said) == 1 and "--resume" in said[0] and seconds < ENDED
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", cable[0]], capture_output=True, check=False)
    return Outcome(
        what,
        2,
        (not same) + (not told),
        f"the same metrics as on one machine; ended {seconds:.1f} s after the kill, with a sentence"
        + ("" if same else f"; {statuses} {whole[0].words()[-300:]}")
        + ("" if told else f"; {status} {broken[0].words()[-300:]}"),
    )


def on_machine(folder: Path, names: tuple[str, str], cable: tuple[str, str], rank: int) -> Training:
    """The command as it is typed on one of two machines."""
    return Training(
        folder,
        2,
        command=("ip", "netns", "exec", names[rank], sys.executable),
        environment={
            "MASTER_ADDR": "10.77.0.1",
            "MASTER_PORT": "29500",
            "NODE_RANK": str(rank),
            "GLOO_SOCKET_IFNAME": cable[rank],
        },
        more=("--trainer.devices", "1", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp"),
    )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)


def torchrun() -> tuple[str, ...]:
    """Two processes on this machine, by a port that is free."""
    port = f"--master-port={free_port()}"
    return (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", port)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
