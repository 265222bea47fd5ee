"""The part of the smoke test that a training script would be:

a run with a metric and an artifact, read back, then cleaned up.

Runs in a process of its own, with MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN in its environment.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests


def _delete_artifact(repository: Any) -> None:
    """Delete the artifact; only admins may, as it can't be undone, so whoever else tests says what stays."""
    try:
        repository.delete_artifacts()
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != 403:
            raise
        print("its artifact of 2 kB stays in the bucket: only an admin may delete artifacts")


def main() -> int:
    """Return 0 if all that was written came back as it was."""
    import mlflow
    from mlflow.artifacts import download_artifacts
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = mlflow.MlflowClient()
    content = secrets.token_hex(1000)
    experiment = client.create_experiment(f"gatehouse-smoke-{secrets.token_hex(6)}")
    try:
        run = client.create_run(experiment)
        try:
            client.log_metric(run.info.run_id, "answer", 42.0)
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory, "proof.txt")
                file.write_text(content, encoding="utf-8")
                client.log_artifact(run.info.run_id, str(file))
                back = download_artifacts(
                    run_id=run.info.run_id, artifact_path="proof.txt", dst_path=str(Path(directory, "back"))
                )
                if Path(back).read_text(encoding="utf-8") != content:
                    print("the artifact came back changed", file=sys.stderr)
                    return 1
            if client.get_run(run.info.run_id).data.metrics != {"answer": 42.0}:
                print("the metric came back changed", file=sys.stderr)
                return 1
        finally:
            _delete_artifact(get_artifact_repository(run.info.artifact_uri))
            client.delete_run(run.info.run_id)
    finally:
        client.delete_experiment(experiment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
