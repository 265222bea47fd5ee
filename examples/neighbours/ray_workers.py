"""Ray: tasks on workers log children of one run; the address comes by `runtime_env`, the token by itself."""

from __future__ import annotations

import os

import mlflow
import ray

EXPERIMENT = "neighbours: ray"
PASSED = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_TOKEN_FILE")


@ray.remote
def fit(depth: int, parent: str) -> int:
    """Train one candidate; return the process that did."""
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=f"depth {depth}", tags={"mlflow.parentRunId": parent}):
        mlflow.log_metric("loss", 1 / (depth + 1))
    return os.getpid()


if __name__ == "__main__":
    variables = {name: os.environ[name] for name in PASSED if name in os.environ}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables})
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name="search") as run:
        found = ray.get([fit.remote(depth, run.info.run_id) for depth in range(6)])
    print("workers:", len(set(found)), "runs:", len(found))
    ray.shutdown()
