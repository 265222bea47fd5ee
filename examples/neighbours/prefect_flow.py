"""Prefect: a flow is a run, its tasks log into it. The token is the plug-in's, in whatever process a task runs.

A work pool passes the two variables on with the deployment's `job_variables: {env: {MLFLOW_TRACKING_URI: …,
MLFLOW_TRACKING_AUTH: gatehouse}}`; on Kubernetes the job's pod has a source of tokens of its own. No block holds one.
"""

from __future__ import annotations

import mlflow
from prefect import flow, task


@task(retries=2)
def fit(run_id: str, depth: int) -> float:
    """Train one candidate; metrics go into the flow's run."""
    loss = 1 / (depth + 1)
    mlflow.MlflowClient().log_metric(run_id, "loss", loss, step=depth)
    return loss


@flow
def search(candidates: int = 4) -> str:
    """Try the candidates at the same time; return the run."""
    mlflow.set_experiment("neighbours: prefect")
    with mlflow.start_run() as run:
        losses = fit.map(run.info.run_id, range(candidates)).result()
        mlflow.log_metric("best", min(losses))
        mlflow.log_dict({"losses": losses}, "losses.json")
    return run.info.run_id


if __name__ == "__main__":
    print("run:", search())
