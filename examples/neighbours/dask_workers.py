"""Dask: a parent run here, a child run on each worker, every one with a token of the same source.

A worker is a process of its own: it asks the plug-in for its token when its first request needs one, and renews it by
itself. So the workers need what a client needs, MLFLOW_TRACKING_URI, MLFLOW_TRACKING_AUTH and a source of tokens, and
no token is ever pickled into a task.
"""

from __future__ import annotations

import sys

import mlflow
from distributed import Client, LocalCluster, get_worker

EXPERIMENT = "neighbours: dask"


def fit(depth: int, parent: str) -> tuple[str, str]:
    """Train one candidate on whichever worker has time; return that worker and the run."""
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=f"depth {depth}", tags={"mlflow.parentRunId": parent}) as run:
        mlflow.log_param("depth", depth)
        for step in range(3):
            mlflow.log_metric("loss", 1 / (depth + step + 1), step=step)
    return str(get_worker().name), run.info.run_id


def main() -> None:
    """Run eight candidates on two workers."""
    mlflow.set_experiment(EXPERIMENT)
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
        mlflow.start_run(run_name="search") as parent,
    ):
        found = client.gather(client.map(fit, range(8), parent=parent.info.run_id))
        mlflow.log_metric("candidates", len(found))
    print("workers:", len({worker for worker, _ in found}), "runs:", len({run for _, run in found}))
    sys.exit(len(found) != 8)


if __name__ == "__main__":
    main()
