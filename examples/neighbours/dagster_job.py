"""Dagster: assets that log into MLflow, by a resource that holds no token: the plug-in has it.

No `from __future__ import annotations` here: Dagster compares the annotation of `context` with the class itself.
"""

import mlflow
from dagster import AssetExecutionContext, ConfigurableResource, asset, materialize


class Tracking(ConfigurableResource):
    """The experiment of a code location. Address and token are the environment's."""

    experiment: str

    def run(self, context: AssetExecutionContext) -> mlflow.ActiveRun:
        """Start a run that says which of Dagster's it belongs to."""
        mlflow.set_experiment(self.experiment)
        return mlflow.start_run(tags={"dagster.run_id": context.run_id})


@asset
def losses(context: AssetExecutionContext, tracking: Tracking) -> list[float]:
    """Train."""
    values = [1 / (step + 1) for step in range(4)]
    with tracking.run(context) as run:
        for step, value in enumerate(values):
            mlflow.log_metric("loss", value, step=step)
    context.add_output_metadata({"mlflow run": run.info.run_id})
    return values


@asset
def report(context: AssetExecutionContext, tracking: Tracking, losses: list[float]) -> None:
    """Keep what came out."""
    with tracking.run(context):
        mlflow.log_dict({"best": min(losses)}, "report.json")


if __name__ == "__main__":
    done = materialize([losses, report], resources={"tracking": Tracking(experiment="neighbours: dagster")})
    print("run:", done.run_id, "success:", done.success)
