"""Parts on Ray Data: a data set of parts, each of which is read, computed and written by one task.

Ray Data cuts rows into blocks as it likes, and a row's last digits depend on the rows beside it. So
what streams through it are numbers of parts, and how many rows each gave: a task that is lost with
its worker is done again by another, and what it had written counts for nothing until it is renamed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from diffeo.scale.parts import Part
from diffeo.scale.work import Done, Work, attempt

OBJECT_STORE = 128 * 2**20  # bytes; numbers of parts and one model pass through it
PATIENCE = 5.0  # seconds for a cluster to answer


@dataclass(frozen=True)
class Cluster:
    """Where Ray is.

    Args:
        address: HOST:PORT of a cluster, whose machines have diffeo and see the same folders under
            the same names; None to start Ray here, for this process alone, and to end it after.
        workers: how many parts at a time where it is started here; by default one for each core.
    """

    address: str | None = None
    workers: int | None = None


def on_ray(cluster: Cluster, work: Work, parts: list[Part]) -> Iterator[Done]:
    """What came of each part, as they finish.

    Raises:
        ValueError: if Ray is not installed, not there, or gave up.
    """
    if not parts:
        return

    def one(row: dict[str, Any]) -> dict[str, Any]:
        return asdict(attempt(work, parts[row["id"]]))

    with _ray(cluster) as ray:
        numbers = ray.data.range(len(parts), override_num_blocks=len(parts))
        with closing(iter(numbers.map(one, num_cpus=1).iter_rows())) as rows:
            yield from (Done(**row) for row in rows)


@contextmanager
def _ray(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected and quiet; what is started here listens to this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By its name for some systems, but on all: alone, Ray need not listen to the network.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if cluster.address is None else "1"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError('--ray needs the package ray: pip install "diffeo[ray]"') from error
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = (
        cluster.address is not None
    )  # if imported before
    _connect(ray, cluster)
    try:
        # What Ray has to say of each worker that died would hide what we say of the part.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a part of pictures may take an hour
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

        ray.init(
            "local",
            num_cpus=cluster.workers or cpu_count(),
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            **quiet,
        )
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
