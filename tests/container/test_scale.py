"""Four containers behind one load balancer, on one database: as one, also when one of them is killed."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.config import POOL_OVERFLOW, POOL_SIZE, READ_CONNECTIONS
from local.provider import email
from local.proxy_binary import ROOT
from local.run import CLIENT_ID
from local.token import identity_token
from tests.access.test_stamping import otlp
from tests.balancer import SERVED_BY, balanced
from tests.container.parts import HARDENED, PORT, PROVIDER, Engine, settings, socket_mount, socket_url
from tests.support import Postgres, free_port, wait_for

INSTANCES = 4
TRAINERS = 3
STEPS = 60
DATABASE = "scale"
TIMEOUT_S = 60
#: Fernet keys are 32 bytes in base64 (cryptography.io); every instance must have the same.
SEALING_KEY = "c2NhbGUtc2NhbGUtc2NhbGUtc2NhbGUtc2NhbGUtMTI="

TRAIN = """
import sys, mlflow
# MLflow's client doesn't make it the active one if another process creates it at the same moment (tracking/fluent.py).
experiment = mlflow.set_experiment("of all trainers")
with mlflow.start_run(run_name="the same name", experiment_id=experiment.experiment_id) as run:
    print("started", flush=True)
    for step in range(int(sys.argv[1])):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metric("accuracy", step / 100, step=step)
    mlflow.log_text("kept", "note.txt")
client = mlflow.MlflowClient()
try:
    client.create_registered_model("of all trainers")
except mlflow.exceptions.RestException as error:
    assert error.error_code == "RESOURCE_ALREADY_EXISTS", error
for _ in range(2):
    client.create_model_version("of all trainers", f"runs:/{run.info.run_id}/model", run.info.run_id)
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt") == "kept"
print(run.info.run_id)
"""


class Fleet:
    """Gates that differ in their ports alone, next to the local provider in its network; see ``Site``."""

    def __init__(self, engine: Engine, postgres: Postgres) -> None:
        self._lock, self._tokens = threading.Lock(), dict[str, str]()
        issuer_port, balancer_port = free_port(), free_port()
        self.balancer_port = balancer_port
        self.url = f"http://localhost:{balancer_port}"
        self.issuer = f"http://localhost:{issuer_port}"
        inside = [PORT + number for number in range(INSTANCES)]
        self.ports = [free_port() for _ in inside]
        published = {f"{port}/tcp": ("127.0.0.1", outside) for port, outside in zip(inside, self.ports, strict=True)}
        provider = engine.start(
            "--port",
            str(issuer_port),
            image=PROVIDER,
            environment={},
            ports={**published, f"{issuer_port}/tcp": ("127.0.0.1", issuer_port)},
        )
        wait_for(self.provider_answers, "the provider", 60, provider.log)
        environment = settings(
            PUBLIC_URL=self.url,
            BACKEND_STORE_URI=socket_url(DATABASE),
            ARTIFACTS_DESTINATION="/data/artifacts",
            ACCESS_POLICY="/policy.yaml",
            OAUTH2_PROXY_PROVIDER="oidc",
            OAUTH2_PROXY_OIDC_ISSUER_URL=self.issuer,
            OAUTH2_PROXY_CLIENT_ID=CLIENT_ID,
            MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=SEALING_KEY,
            MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=str(POOL_SIZE),
            MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=str(POOL_OVERFLOW),
        )
        policy = str(ROOT / "local" / "access.yaml")
        volumes = {engine.volume(): {"bind": "/data"}, policy: {"bind": "/policy.yaml", "mode": "ro"}}
        options = {**HARDENED, "mounts": [socket_mount(postgres)], "volumes": volumes}
        # All at once, on an empty database.
        self.boxes = [
            engine.start(
                environment={**environment, "PORT": str(port)},
                network_mode=f"container:{provider.container.id}",
                **options,
            )
            for port in inside
        ]
        for box, port in zip(self.boxes, self.ports, strict=True):
            box.url = f"http://localhost:{port}"
            box.wait_ready()

    def provider_answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.issuer}/jwks", timeout=2).ok
        return False

    def log(self) -> str:
        return "\n".join(f"--- instance {number}\n{box.log()[-3000:]}" for number, box in enumerate(self.boxes))

    def token(self, person: str) -> str:
        """Return a token, which all requests of a person share: the local provider isn't made for crowds."""
        with self._lock:
            if person not in self._tokens:
                self._tokens[person] = identity_token(self.issuer, CLIENT_ID, email(person))
            return self._tokens[person]

    def session(self, person: str) -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.token(person)}"
        return session


@pytest.fixture(scope="module")
def fleet(shared_engine: Engine, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The instances behind the balancer, started at once on an empty database."""
    postgres.create(DATABASE)
    made = Fleet(shared_engine, postgres)
    with balanced(made.ports, tmp_path_factory.mktemp("balancer"), made.balancer_port):
        yield made


def at_once(function: Any, times: int) -> list[Any]:
    """Call a function in so many threads."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: function(), range(times)))


def test_instances_that_start_at_once_make_one_schema(fleet: Fleet, postgres: Postgres) -> None:
    assert postgres.sql("SELECT count(*) FROM alembic_version", DATABASE) == "1"
    assert postgres.sql("SELECT name FROM experiments", DATABASE) == "Default"
    assert [box.state()["Status"] for box in fleet.boxes] == ["running"] * INSTANCES


def test_a_sign_in_at_one_instance_is_good_at_every_other(fleet: Fleet) -> None:
    browser = requests.Session()
    page = browser.get(fleet.url, timeout=TIMEOUT_S)
    assert page.url.startswith(f"{fleet.issuer}/oauth2/authorize?")
    # The callback comes to another instance than the one that began the sign-in.
    page = browser.post(page.url, data={"sub": email("bob")}, timeout=TIMEOUT_S)
    assert (page.status_code, page.url) == (200, f"{fleet.url}/"), page.text
    assert page.history[0].headers.get(SERVED_BY) != page.headers[SERVED_BY]
    served: Counter[str] = Counter()
    for number in range(2 * INSTANCES):
        answer = browser.post(
            f"{fleet.url}/ajax-api/2.0/mlflow/experiments/create",
            json={"name": f"by the session {number}"},
            headers={"Origin": fleet.url},
            timeout=TIMEOUT_S,
        )
        assert answer.status_code == 200, answer.text
        served[answer.headers[SERVED_BY]] += 1
    assert len(served) == INSTANCES


def test_a_name_is_given_once_however_many_ask_at_once(fleet: Fleet) -> None:
    for path, name in (("experiments", "wanted by all"), ("registered-models", "wanted by all")):
        answers = at_once(
            lambda path=path, name=name: fleet.session("bob").post(
                f"{fleet.url}/api/2.0/mlflow/{path}/create", json={"name": name}, timeout=TIMEOUT_S
            ),
            2 * INSTANCES,
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 400: 2 * INSTANCES - 1}
        refusals = {answer.json()["error_code"] for answer in answers if answer.status_code == 400}
        assert refusals == {"RESOURCE_ALREADY_EXISTS"}
        assert len({answer.headers[SERVED_BY] for answer in answers}) == INSTANCES


def test_what_one_instance_sealed_every_other_can_open(fleet: Fleet) -> None:
    events = [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]
    document = {"name": "sealed", "url": "https://93.184.215.14/hook", "events": events, "secret": "of the listener"}
    alice = fleet.session("alice")
    base = f"{fleet.url}/api/2.0/mlflow/webhooks"
    made = alice.post(base, json=document, timeout=TIMEOUT_S)
    assert made.status_code == 200, made.text
    url = f"{base}/{made.json()['webhook']['webhook_id']}"
    answers = [alice.get(url, timeout=TIMEOUT_S) for _ in range(INSTANCES)]
    assert [answer.status_code for answer in answers] == [200] * INSTANCES
    assert len({answer.headers[SERVED_BY] for answer in answers}) == INSTANCES
    assert alice.delete(url, timeout=TIMEOUT_S).status_code == 200


def test_training_goes_on_when_an_instance_is_killed_and_nothing_is_lost(
    fleet: Fleet, postgres: Postgres, tmp_path: Path
) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": fleet.url,
        "MLFLOW_TRACKING_TOKEN": fleet.token("bob"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    trainers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(STEPS)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(TRAINERS)
    ]

    def logged() -> int:
        return int(postgres.sql("SELECT count(*) FROM metrics", DATABASE))

    wait_for(lambda: logged() > TRAINERS * STEPS // 2, "half of one metric", 120, fleet.log)
    killed = fleet.boxes[-1]
    killed.container.kill("KILL")
    before = logged()
    run_ids = []
    for trainer in trainers:
        out, errors = trainer.communicate(timeout=180)
        assert trainer.returncode == 0, errors + fleet.log()
        run_ids.append(out.split()[-1])
    # It was killed in the middle.
    assert before < TRAINERS * STEPS * 2
    with fleet.session("bob") as bob:
        for run_id in run_ids:
            for key in ("loss", "accuracy"):
                query = {"run_id": run_id, "metric_key": key}
                history = bob.get(f"{fleet.url}/api/2.0/mlflow/metrics/get-history", params=query, timeout=TIMEOUT_S)
                assert [one["step"] for one in history.json()["metrics"]] == list(range(STEPS))
        runs = bob.post(
            f"{fleet.url}/api/2.0/mlflow/runs/search",
            json={"experiment_ids": [experiment_of(bob, fleet)], "filter": "run_name = 'the same name'"},
            timeout=TIMEOUT_S,
        ).json()["runs"]
        assert set(run_ids) <= {run["info"]["run_id"] for run in runs}
    versions = postgres.sql("SELECT version FROM model_versions WHERE name = 'of all trainers' ORDER BY 1", DATABASE)
    assert [int(version) for version in versions.splitlines()] == list(range(1, 2 * TRAINERS + 1))


def experiment_of(bob: requests.Session, fleet: Fleet) -> str:
    """Return the id of the trainers' experiment, of which there is one."""
    query = {"filter": "name = 'of all trainers'", "max_results": 5}
    found = bob.post(f"{fleet.url}/api/2.0/mlflow/experiments/search", json=query, timeout=TIMEOUT_S).json()
    (experiment,) = found["experiments"]
    return str(experiment["experiment_id"])


def test_an_instance_that_comes_back_serves_again(fleet: Fleet) -> None:
    back = fleet.boxes[-1]
    back.container.start()
    back.wait_ready()
    bob = fleet.session("bob")

    def served_by_it() -> bool:
        answer = bob.get(f"{fleet.url}/version", timeout=TIMEOUT_S)
        return answer.ok and answer.headers[SERVED_BY] == f"gate{INSTANCES - 1}"

    wait_for(served_by_it, "the balancer to take it up", 30, fleet.log)


def test_many_batches_at_once_wait_for_no_connection_and_hold_no_more_than_planned(
    fleet: Fleet, postgres: Postgres
) -> None:
    """Each batch, of metrics or of spans, holds two connections at a time: with too few, all wait for the second."""
    bob = fleet.session("bob")
    created = bob.post(f"{fleet.url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}, timeout=TIMEOUT_S)
    run_id = created.json()["run"]["info"]["run_id"]

    def log() -> list[int]:
        with fleet.session("bob") as session:
            metrics = [{"key": f"m{n}", "value": n, "timestamp": 1, "step": 1} for n in range(20)]
            batch = {"run_id": run_id, "metrics": metrics}
            url = f"{fleet.url}/api/2.0/mlflow/runs/log-batch"
            return [session.post(url, json=batch, timeout=TIMEOUT_S).status_code for _ in range(5)]

    def trace() -> list[int]:
        headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
        with fleet.session("bob") as session:
            url = f"{fleet.url}/v1/traces"
            bodies = (otlp(secrets.token_bytes(16)) for _ in range(5))
            return [session.post(url, data=one, headers=headers, timeout=TIMEOUT_S).status_code for one in bodies]

    with ThreadPoolExecutor(2) as both:
        done = both.map(lambda function: at_once(function, 8 * INSTANCES), (log, trace))
    assert list(done) == [[[200] * 5] * (8 * INSTANCES)] * 2
    assert "QueuePool limit" not in fleet.log()
    held = int(postgres.sql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{DATABASE}'"))
    # Two engines in each instance, and what it reads with (docs/capacity.md).
    assert INSTANCES <= held <= INSTANCES * (2 * (POOL_SIZE + POOL_OVERFLOW) + READ_CONNECTIONS)
