"""Parts on Ray Data, where one task reads, computes and writes one part.

Ray Data splits rows into blocks as it likes, and the last digits of a row depend on its batch. So
only the numbers of parts pass through Ray. A task that is lost with its worker is repeated by
another, and its file has no effect before it is renamed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch

from diffeo.scale.job import Done, Part, Work, attempt
from diffeo.utils.ranges import Count, Whole, check_arguments

OBJECT_STORE = 128 * 2**20  # bytes; numbers of parts and one model pass through it
PATIENCE = 5.0  # seconds for a cluster to answer


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, or Ray started on this machine for this process alone: an executor of parts.

    Args:
        address: HOST:PORT of a cluster whose machines have diffeo and see the same folders under
            the same names; None to start Ray on this machine.
        workers: parts at a time where it is started here; by default one for each core.
        gpus: how many each part takes; see `on`.

    Raises:
        ValueError: when called, if Ray is not installed, does not answer, or fails.
    """

    address: str | None = None
    workers: Count | None = None
    gpus: Whole = 0

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))

    def on(self, device: torch.device) -> Self:
        """The same cluster for work on a device: on "cuda" each part takes one GPU."""
        return replace(self, gpus=int(device.type == "cuda"))

    def __call__(self, work: Work, parts: list[Part]) -> Iterator[Done]:
        """The result of each part, as they finish."""
        if not parts:
            return

        def one(row: dict[str, Any]) -> dict[str, Any]:
            return asdict(attempt(work, parts[row["id"]]))

        with _ray(self) as ray:
            numbers = ray.data.range(len(parts), override_num_blocks=len(parts))
            with closing(
                iter(numbers.map(one, num_cpus=1, num_gpus=self.gpus).iter_rows())
            ) as rows:
                yield from (Done(**row) for row in rows)


@contextmanager
def _ray(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected and quiet; if it is started here, it listens on this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # In spite of its name it works on all systems: Ray then listens on this machine alone.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if cluster.address is None else "1"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError('--ray needs the package ray: pip install "diffeo[ray]"') from error
    # For a Ray that was imported before.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = cluster.address is not None
    _connect(ray, cluster)
    try:
        # Ray's messages about each worker that died would hide the one about the part.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a part of images may take an hour
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield ray
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"Ray gave up: {lines[-1].strip()}") from error
    finally:
        ray.shutdown()


def _connect(ray: Any, cluster: Cluster) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if cluster.address is None:
        from joblib import cpu_count

        cores = cluster.workers or cpu_count()
        store = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
        ray.init("local", num_cpus=cores, **store, **quiet)
        return
    host, _, port = cluster.address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(cluster.address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no Ray cluster answers at {cluster.address} ({reason}): give --ray-address HOST:PORT "
            "of its head, or --ray alone to use this machine."
        ) from error
