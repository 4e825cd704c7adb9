"""Dask and Ray as backends; both are optional, ``pip install '.[cluster]'``.

Their own futures are used, not joblib: under Dask an unordered joblib generator never ends once a
worker has killed too many (joblib 1.6), and under Ray joblib has no generators at all.

To a cluster that runs already nothing is sent but the cells: start its scheduler and workers with
this repository in PYTHONPATH and the data in KERAS_LOWBIT_DATA.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.study.worker import KILLED_TWICE, ONE_THREAD, Outcome, Work, attempt

LOCAL_DASK = {
    "distributed.scheduler.allowed-failures": 1,
    # After 15 seconds it would give up a dead worker, which needs longer to import TensorFlow.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
}


def dask(work: Work, cells: Sequence[Any], jobs: int, address: str = "") -> Iterator[Outcome]:
    """On a Dask cluster, or on ``jobs`` local processes; Dask itself starts lost cells again.

    How often one cell may kill its worker is up to the scheduler; of a local one, once.
    """
    from dask import config
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    def slots(client: Client) -> int:
        return max(1, sum(client.ncores().values()))  # workers come and go

    with contextlib.ExitStack() as stack:
        cluster: Any = address
        if not address:
            stack.enter_context(config.set(LOCAL_DASK))
            cluster = stack.enter_context(
                LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
            )
        client = stack.enter_context(Client(cluster))
        waiting = list(reversed(cells))
        running: dict[Any, Any] = {}
        finished = as_completed()
        while waiting or running:
            while waiting and len(running) < slots(client):
                cell = waiting.pop()
                future = client.submit(attempt, work, cell, pure=False)
                running[future] = cell
                finished.add(future)
            future = next(finished)
            yield _outcome(running.pop(future), future.result, KilledWorker)


def ray(work: Work, cells: Sequence[Any], jobs: int, address: str = "") -> Iterator[Outcome]:
    """On a Ray cluster, or on ``jobs`` local processes; Ray itself starts lost cells again, once."""
    import ray

    if address:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": ONE_THREAD})
    else:
        ray.init("local", num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    try:
        get: Callable[[Any], Any] = ray.get
        remote = ray.remote(num_cpus=1, max_retries=1)(attempt)
        waiting = list(reversed(cells))
        running: dict[Any, Any] = {}
        while waiting or running:
            while waiting and len(running) < max(1, int(ray.cluster_resources().get("CPU", 0))):
                cell = waiting.pop()
                running[remote.remote(work, cell)] = cell
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            cell = running.pop(done)
            yield _outcome(cell, functools.partial(get, done), ray.exceptions.WorkerCrashedError)
    finally:
        ray.shutdown()


def _outcome(cell: Any, result: Callable[[], Outcome], killed: type[Exception]) -> Outcome:
    """What a future holds; ``killed`` is how the backend says that workers died of this cell."""
    try:
        return result()
    except killed:
        return Outcome(cell, error=KILLED_TWICE)
    except Exception as error:  # of the cluster, not of the cell: the others may still succeed
        cause = error.__cause__ or error
        return Outcome(cell, error=f"{type(cause).__name__}: {cause}")
