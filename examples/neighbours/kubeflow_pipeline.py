"""Kubeflow Pipelines: a step logs into MLflow. Run as it is, the steps are processes of this machine (kfp.local).

On a cluster, compile the same pipeline (`kfp dsl compile`), and give the steps' pods the address and a source of tokens
with kfp-kubernetes: `set_env_variable`, and `use_secret_as_volume` for MLFLOW_TRACKING_TOKEN_FILE or a ServiceAccount
with an identity. No `from __future__ import annotations` here: the compiler reads the types themselves.
"""

from kfp import dsl, local

#: Has mlflow-skinny, the client and kfp: a step installs nothing when it starts.
IMAGE = "registry.example.com/mlflow-client"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fit(steps: int) -> str:
    """Train."""
    import mlflow

    mlflow.set_experiment("neighbours: kubeflow")
    with mlflow.start_run() as run:
        for step in range(steps):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
    return run.info.run_id


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check(run_id: str) -> float:
    """Read back what the step before wrote."""
    import mlflow

    return float(mlflow.get_run(run_id).data.metrics["loss"])


@dsl.pipeline
def training(steps: int = 4) -> float:
    """Train, then look."""
    return check(run_id=fit(steps=steps).output).output


if __name__ == "__main__":
    local.init(runner=local.SubprocessRunner(use_venv=False))
    print("loss:", training().output)
