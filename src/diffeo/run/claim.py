"""A run folder while it is trained in: who may write to it, and how an error is reported."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffeo.bijections.convolution import SingularError
from diffeo.data import DataOptions
from diffeo.run.folder import data_options
from diffeo.training.checkpoints import BEFORE, LAST, epochs_in
from diffeo.utils.files import SETTINGS_BYTES, atomic_write, read_text
from diffeo.utils.modules import NotFiniteError
from diffeo.utils.yaml import dump_yaml, parse_yaml

# What the system reports where there is no room: on the disk, of the user's share, for a file.
FULL: set[int] = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
# Options of data that a resumed run may change: the same rows are learned from.
FREE = {"source", "cache", "flip", "shift"}


def free_folder(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2 and so on that there is not."""
    slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    names = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := Path("runs", name)).exists())


def check_free(folder: Path) -> None:
    """Raise ValueError for a folder that holds something."""
    if (folder / "config.yaml").exists():
        raise ValueError(
            f"{folder} already holds a run: go on with it by --resume {folder}, "
            "or choose another folder by --out."
        )
    # What begins with a dot may be of a run that was killed before it had begun.
    if any(not path.name.startswith(".") for path in folder.glob("*")):
        raise ValueError(f"{folder} is not empty: choose another folder by --out.")


def check_resumed(folder: Path, options: DataOptions, model: dict[str, Any]) -> None:
    """Raise ValueError for a run of another model, or that learned from other rows.

    Other rows might be among those tested; and a model with another bound, say, is another density
    of the same weights. `model` is the section of the settings.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        return
    before = dataclasses.asdict(data_options(config))
    for name, value in dataclasses.asdict(options).items():
        if name not in FREE and before[name] != value:
            raise ValueError(
                f"{folder} cannot be resumed so: it learned from data with {name} {before[name]}, "
                f"not {value}: leave --data.{name} as it was."
            )
    known = parse_yaml(read_text(config, SETTINGS_BYTES)).get("model")
    changed = _first_changed("--model", known, parse_yaml(dump_yaml(model)))
    if changed is not None:
        raise ValueError(
            f"{folder} cannot be resumed so: it has the weights of another model: leave {changed} "
            "as it was, or start a new run."
        )


def _first_changed(option: str, before: Any, now: Any) -> str | None:
    """The first option of a model that differs."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else option
    if before.get("class_path") != now.get("class_path"):
        return option
    before, now = before.get("init_args", {}), now.get("init_args", {})
    found = (_first_changed(f"{option}.{name}", before.get(name), now.get(name)) for name in now)
    return next((name for name in found if name is not None), None)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and lock out other trainings; however a process ends, its lock goes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise ValueError(
            f"another process trains in {folder}: wait until it ends, or choose another folder "
            "by --out."
        ) from error
    except OSError as error:
        raise _not_writable(folder, error) from error
    with lock:
        yield


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write `config.yaml`, and remove the halves of files that a kill left."""
    try:
        for partial in folder.rglob(".*.partial.*"):
            partial.unlink()
        with atomic_write(folder / "config.yaml") as partial:
            partial.write_text(dump_yaml(settings), encoding="utf-8")
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> ValueError:
    reason = f"{folder} cannot be written ({error.strerror})"
    return ValueError(f"{reason}: choose another folder by --out.")


def resume_command(folder: Path) -> str:
    """The command that continues a run."""
    return shlex.join(["diffeo", "train", "--resume", str(folder)])


@contextlib.contextmanager
def one_sentence(folder: Path) -> Iterator[None]:
    """Report in one sentence how to continue a run that was stopped, failed, or had no room."""
    command, last = resume_command(folder), folder / "checkpoints" / LAST
    try:
        yield
    except KeyboardInterrupt as error:
        epochs = epochs_in(last) or epochs_in(last.with_name(BEFORE))
        what = f"stopped before the first epoch was over: {command} starts anew."
        if epochs:
            which = "epoch 1 is" if epochs == 1 else f"epochs 1 to {epochs} are"
            what = f"stopped: {which} saved, and {command} goes on from there."
        raise KeyboardInterrupt(what) from error
    except (NotFiniteError, SingularError) as error:
        saved = f"the last good checkpoint is {last}"
        if not last.is_file():
            saved = "there is no checkpoint yet"
        what = f"{str(error).rstrip('.')}; {saved}"
        if isinstance(error, SingularError):
            raise ValueError(f"{what}.") from error
        raise NotFiniteError(f"{what}: {error.remedy}.", error.remedy) from error
    except OSError as error:
        if error.errno is None:
            raise
        remedy = "make room" if error.errno in FULL else "mend that"
        raise ValueError(
            f"{error.filename or folder} cannot be written ({error.strerror}): {remedy}, then "
            f"{command} goes on."
        ) from error
