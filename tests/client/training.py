"""A training run, as people write them: ``python training.py SECONDS``.

Eight threads log metrics and artifacts and train with autolog, two forked workers log to runs of their own, all for
SECONDS seconds; at the end all of it is read back and compared. Prints one JSON object with what was done.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

THREADS = 8
AUTOLOGGING = 1  # of them; with more, MLflow's autolog leaves out runs, with any kind of token
EARLY = 4  # threads that run already when the workers are forked
WORKERS = 2
PAUSE = 0.2  # seconds between two steps of a thread: a run that trains, not a load test


def content_of(name: str, step: int) -> str:
    """The text of an artifact: long enough to be sent as a stream of several packets."""
    return f"{name} {step}\n" * 20_000


def work(name: str, run_id: str, ends: float, after_first: Callable[[], object] = int) -> int:
    """Log a metric and an artifact in each step, and read the artifact back; return the number of steps."""
    client = MlflowClient()
    step = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < ends:
            client.log_metric(run_id, name, step, step=step)
            path = Path(folder) / f"{name}.txt"
            path.write_text(content_of(name, step))
            client.log_artifact(run_id, str(path))
            back = Path(client.download_artifacts(run_id, path.name, folder))
            assert back.read_text() == content_of(name, step), f"{name} {step}: something else came back"
            step += 1
            if step == 1:
                after_first()
            time.sleep(PAUSE)
    return step


def train(ends: float) -> int:
    """Fit with autolog, in runs of the thread's own; return how many."""
    fits = 0
    rows = numpy.arange(20.0).reshape(-1, 1)
    while time.monotonic() < ends:
        with mlflow.start_run():
            LinearRegression().fit(rows, rows.ravel())
        fits += 1
        time.sleep(PAUSE)
    return fits


def worker(number: int, run_id: str, ends: float, results: Any) -> None:
    """What a forked worker does."""
    results.put((f"worker{number}", work(f"worker{number}", run_id, ends)))


def main() -> None:
    """Run and compare."""
    seconds = float(sys.argv[1])
    experiment = mlflow.set_experiment(f"training {uuid.uuid4()}").experiment_id
    mlflow.sklearn.autolog(log_models=False, silent=True)
    client = MlflowClient()
    run_id = client.create_run(experiment).info.run_id
    ends = time.monotonic() + seconds
    steps: dict[str, int] = {}
    failures: list[str] = []

    # Forking while another thread imports something deadlocks the child in Python itself, and MLflow imports at odd
    # moments: the threads that exist by then stand still, with their connections open, while the workers are forked.
    standing = threading.Barrier(EARLY + 1)
    forked = threading.Event()

    def stand() -> None:
        standing.wait()
        forked.wait()

    def guarded(name: str) -> None:
        try:
            if name.startswith("autolog"):
                steps[name] = train(ends)
            else:
                steps[name] = work(name, run_id, ends, int if forked.is_set() else stand)
        except BaseException as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")

    names = [f"thread{n}" if n < THREADS - AUTOLOGGING else f"autolog{n}" for n in range(THREADS)]
    threads = [threading.Thread(target=guarded, args=(name,)) for name in names]
    for thread in threads[:EARLY]:
        thread.start()
    standing.wait()
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    workers = [fork.Process(target=worker, args=(n, run_id, ends, results)) for n in range(WORKERS)]
    for process in workers:
        process.start()
    forked.set()
    for thread in threads[EARLY:]:
        thread.start()
    for thread in threads:
        thread.join()
    for process in workers:
        process.join()
    failures += [f"worker {process.pid} ended with {process.exitcode}" for process in workers if process.exitcode]
    while not results.empty():
        name, count = results.get()
        steps[name] = count

    logged = client.get_run(run_id).data.metrics
    for name, count in steps.items():
        if not name.startswith("autolog") and logged.get(name) != count - 1:
            failures.append(f"{name}: logged {count} steps, the last that reads is {logged.get(name)}")
    fits = sum(count for name, count in steps.items() if name.startswith("autolog"))
    trained = client.search_runs(
        [experiment],
        "params.fit_intercept = 'True' and attributes.status = 'FINISHED'",
        max_results=5000,
    )
    if len(trained) != fits:
        failures.append(f"autolog trained {fits} times, and {len(trained)} runs read so")
    print(json.dumps({"steps": steps, "failures": failures, "run_id": run_id}))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
