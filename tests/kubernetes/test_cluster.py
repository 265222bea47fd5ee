"""The chart on a real cluster: Kubernetes' own programs, containerd and runc, one node (`make kubernetes-test`, as root).

The namespace enforces Pod Security's restricted standard, so what is refused there fails the test that needs it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
import yaml

from gatehouse.exit_codes import Exit
from local.chart_schema import CHART
from local.provider import email
from local.proxy_binary import ROOT
from local.run import CLIENT_ID
from local.token import identity_token
from tests.artifacts.google_server import GoogleServer
from tests.container.parts import GATEHOUSE, build_images, connect
from tests.kubernetes.charts import merged, program
from tests.kubernetes.forward import forward
from tests.support import Provider, wait_for

pytestmark = pytest.mark.apart

SCRIPT = ROOT / "tests" / "kubernetes" / "cluster.sh"
POSTGRES = "postgres:17.11-trixie"
DATABASE = "10.232.0.51"
FORWARD = Path(__file__).parent / "forward.py"
CONNECTS = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)"
#: The node's address, on the bridge of the pods.
NODE = "10.231.0.1"
NAMESPACE = "mlflow"


@dataclass
class Cluster:
    """kubectl and Helm of the one cluster."""

    kubeconfig: str

    def run(self, *command: str, stdin: str | None = None, limit_s: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": self.kubeconfig}
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, timeout=limit_s, check=False
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, limit_s: float = 300) -> str:
        """Run kubectl in the namespace; return what it prints."""
        done = self.run("kubectl", "--namespace", NAMESPACE, *arguments, stdin=stdin, limit_s=limit_s)
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{self.state()}"
        return done.stdout

    def helm(self, *arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Helm in the namespace."""
        given = ("--values", "-") if values is not None else ()
        stdin = json.dumps(values) if values is not None else None
        return self.run(program("helm"), "--namespace", NAMESPACE, *arguments, *given, stdin=stdin, limit_s=500)

    def pods(self, release: str) -> list[dict[str, Any]]:
        """Return the release's server pods that aren't on their way out."""
        labels = f"app.kubernetes.io/instance={release},app.kubernetes.io/component=server"
        found = json.loads(self.kubectl("get", "pods", "--selector", labels, "--output", "json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def state(self) -> str:
        """Return what somebody would look at."""
        told = []
        for command in (
            ["get", "pods,jobs,events", "--sort-by=.metadata.creationTimestamp"],
            ["logs", "--selector=app.kubernetes.io/name=gatehouse", "--tail=30", "--prefix", "--ignore-errors"],
        ):
            told.append(self.run("kubectl", "--namespace", NAMESPACE, *command).stdout[-6000:])
        return "\n".join(told)

    def address(self, release: str) -> str:
        """Return the address of a release's Service."""
        service = json.loads(self.kubectl("get", "service", f"{release}-gatehouse", "--output", "json"))
        return f"http://{service['spec']['clusterIP']}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node with the images, the database and the provider; all of it is gone at the end."""
    client = connect()
    if os.environ.get("KEEP") != "1":
        build_images()
    user = client.containers.run(POSTGRES, ["-u"], entrypoint="id", remove=True).decode().strip()
    done = subprocess.run([str(SCRIPT), "up"], stdout=subprocess.PIPE, text=True, timeout=1500, check=False)
    assert done.returncode == 0, "the cluster didn't start; its log is above"
    try:
        found = Cluster(done.stdout.strip().splitlines()[-1])
        if os.environ.get("KEEP") != "1" or GATEHOUSE not in found.kubectl("get", "nodes", "--output=json"):
            subprocess.run([str(SCRIPT), "load", GATEHOUSE, POSTGRES], check=True, timeout=600)
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        found.kubectl("apply", "--filename=-", stdin=json.dumps(namespace))
        beside = (Path(__file__).parent / "beside.yaml").read_text().replace("runAsUser: 100,", f"runAsUser: {user},")
        found.kubectl("apply", "--filename=-", stdin=beside)
        found.kubectl("rollout", "status", "deployment/database", "--timeout=180s", limit_s=200)
        yield found
    finally:
        if os.environ.get("KEEP") != "1":  # for whoever works on this file
            subprocess.run([str(SCRIPT), "down"], check=False, timeout=180)


@pytest.fixture(scope="module")
def bucket() -> Iterator[GoogleServer]:
    """An object store on the node."""
    server = GoogleServer(NODE)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def issuer(cluster: Cluster, provider: Provider) -> Iterator[str]:  # noqa: ARG001
    """The provider's address on this machine; the node's bridge has its port too, for the pods."""
    port = int(provider.issuer.rpartition(":")[2])
    with socket.create_server((NODE, port)) as listener:
        threading.Thread(target=forward, args=(listener, ("127.0.0.1", port)), daemon=True).start()
        yield provider.issuer


@pytest.fixture(scope="module")
def values(cluster: Cluster, bucket: GoogleServer, issuer: str) -> dict[str, Any]:
    """Values of a release in this cluster; the database's password has every character that a URI doesn't like."""
    token, port = identity_token(issuer, CLIENT_ID, email("bob")), issuer.rpartition(":")[2]
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "gatehouse"},
        "stringData": {"OAUTH2_PROXY_CLIENT_ID": CLIENT_ID, "OAUTH2_PROXY_CLIENT_SECRET": "local"},
    }
    bearer = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": token}}
    for one in (secret, bearer):
        cluster.kubectl("apply", "--filename=-", stdin=json.dumps(one))
    repository, tag = GATEHOUSE.split(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "settings": {
            "PUBLIC_URL": "https://mlflow.example.com",
            "OAUTH2_PROXY_PROVIDER": "oidc",
            "OAUTH2_PROXY_OIDC_ISSUER_URL": issuer,
            "OAUTH2_PROXY_EMAIL_DOMAINS": "example.com",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "10.232.0.*",
            "WORKERS": 1,
        },
        "mlflow": {
            "database": {"host": "database", "passwordSecret": {"name": "database"}},
            "artifactsDestination": bucket.destination,
        },
        "env": [{"name": "STORAGE_EMULATOR_HOST", "value": bucket.url}],
        "secrets": {"existingSecret": "gatehouse"},
        "extraInitContainers": [
            {
                "name": "issuer",
                "image": GATEHOUSE,
                "imagePullPolicy": "Never",
                "restartPolicy": "Always",
                "args": ["python", "-c", FORWARD.read_text(), "127.0.0.1", port, NODE, port],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "startupProbe": {"exec": {"command": ["python", "-c", CONNECTS, port]}, "periodSeconds": 1},
            }
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "tests": {"tokenFrom": {"secretKeyRef": {"name": "token", "key": "token"}}},
        "accessPolicy": {"policy": {"default": "viewer", "roles": {"editor": ["user:bob@example.com"]}}},
    }


@pytest.fixture(scope="module")
def release(cluster: Cluster, values: dict[str, Any]) -> str:
    """A release with two replicas, ready."""
    done = cluster.helm(
        "install", "gate", str(CHART), "--wait", "--timeout=240s", values=merged(values, {"replicaCount": 2})
    )
    assert done.returncode == 0, f"{done.stderr}\n{cluster.state()}"
    return "gate"


@pytest.fixture
def bob(provider: Provider) -> requests.Session:
    """An HTTP session with bob's token."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {provider.token('bob')}"
    return session


@contextlib.contextmanager
def database() -> Iterator[Any]:
    """Yield a cursor on the release's database."""
    password = yaml.safe_load((Path(__file__).parent / "beside.yaml").read_text().split("---")[0])["stringData"]
    connection = psycopg2.connect(host=DATABASE, user="mlflow", dbname="mlflow", password=password["password"])
    with connection, connection.cursor() as cursor:
        yield cursor
    connection.close()


def test_two_restricted_replicas_become_ready(cluster: Cluster, release: str) -> None:
    pods = cluster.pods(release)
    assert len(pods) == 2
    assert all(status["ready"] and status["restartCount"] == 0 for pod in pods for status in pod["status"]["containerStatuses"])  # fmt: skip
    # Nothing of Kubernetes' is in there.
    for pod in pods:
        mounts = [one["mountPath"] for one in pod["spec"]["containers"][0]["volumeMounts"]]
        assert not any(mount.startswith("/var/run/secrets") for mount in mounts)


def test_helms_own_test_comes_in_by_the_three_ways(cluster: Cluster, release: str) -> None:
    done = cluster.helm("test", release, "--logs", "--timeout=180s")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told + cluster.state()
    assert "the SDK reads back its artifact" in told, told


def test_a_browser_gets_to_the_sign_in_and_strangers_get_401(cluster: Cluster, release: str, issuer: str) -> None:
    address = cluster.address(release)
    page = requests.get(address, headers={"Accept": "text/html"}, allow_redirects=False, timeout=20)
    assert page.status_code == 302
    assert page.headers["location"].startswith(f"{issuer}/oauth2/authorize?")
    answer = requests.get(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", timeout=20)
    assert answer.status_code == 401


def test_a_changed_policy_is_taken_up_by_the_same_pods(
    cluster: Cluster, release: str, values: dict[str, Any], bob: requests.Session
) -> None:
    before = {pod["metadata"]["name"] for pod in cluster.pods(release)}
    policy = {
        "accessPolicy": {"policy": {"default": "viewer", "roles": {"admin": ["user:bob@example.com"], "editor": []}}}
    }
    done = cluster.helm(
        "upgrade",
        release,
        str(CHART),
        "--wait",
        "--timeout=240s",
        values=merged(merged(values, {"replicaCount": 2}), policy),
    )
    assert done.returncode == 0, f"{done.stderr}\n{cluster.state()}"
    address = cluster.address(release)
    wait_for(
        lambda: bob.get(f"{address}/gatehouse/whoami", timeout=20).json()["role"] == "admin",
        "the policy",
        150,
        cluster.state,
    )
    assert {pod["metadata"]["name"] for pod in cluster.pods(release)} == before
    again = cluster.helm("upgrade", release, str(CHART), "--wait", values=merged(values, {"replicaCount": 2}))
    assert again.returncode == 0, again.stderr


def test_generated_secrets_outlive_an_upgrade(cluster: Cluster, release: str) -> None:
    def secret() -> Any:
        return json.loads(cluster.kubectl("get", "secret", f"{release}-gatehouse-generated", "--output", "json"))[
            "data"
        ]

    before = secret()
    assert len(base64.b64decode(before["OAUTH2_PROXY_COOKIE_SECRET"])) == 32
    done = cluster.helm("upgrade", release, str(CHART), "--reuse-values", "--wait", "--timeout=240s")
    assert done.returncode == 0, done.stderr
    assert secret() == before


def test_no_metric_is_lost_while_pods_are_killed_scaled_and_replaced(
    cluster: Cluster, release: str, provider: Provider, tmp_path: Path
) -> None:
    """Three training scripts, as people write them, while the cluster does everything that it may do to pods."""
    script = """
import mlflow, sys, pathlib
mlflow.set_experiment("under load")
with mlflow.start_run() as run:
    print(run.info.run_id, flush=True)
    step, ends = 0, pathlib.Path(sys.argv[1])
    while not ends.exists():
        mlflow.log_metric("step", step, step=step)
        step += 1
print(step, flush=True)
"""
    ends = tmp_path / "ends"
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": cluster.address(release),
        "MLFLOW_TRACKING_TOKEN": provider.token("bob"),
        "NO_PROXY": "*",
    }
    with open(os.devnull) as none:  # noqa: PTH123
        scripts = [
            subprocess.Popen(
                ["python", "-c", script, str(ends)],
                env={**environment, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"},
                stdin=none,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
    try:
        runs = [str(one.stdout and one.stdout.readline()).strip() for one in scripts]
        deployment = f"deployment/{release}-gatehouse"
        for replicas in (3, 1, 3):
            cluster.kubectl("scale", deployment, f"--replicas={replicas}")
            cluster.kubectl("rollout", "status", deployment, "--timeout=180s")
        for pod in cluster.pods(release):
            # No grace at all: as when a node dies.
            cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
            cluster.kubectl("rollout", "status", deployment, "--timeout=180s")
        cluster.kubectl("rollout", "restart", deployment)
        cluster.kubectl("rollout", "status", deployment, "--timeout=180s")
    finally:
        ends.touch()
        results = [one.communicate(timeout=120) for one in scripts]
    assert [one.returncode for one in scripts] == [0, 0, 0], f"{results}\n{cluster.state()}"
    steps = [int(printed.split()[-1]) for printed, _ in results]
    assert min(steps) > 20
    with database() as cursor:
        for run, logged in zip(runs, steps, strict=True):
            cursor.execute("SELECT count(DISTINCT step) FROM metrics WHERE run_uuid = %s", (run,))
            assert cursor.fetchone() == (logged,)


def test_wrong_values_leave_the_old_pods_serving_and_say_why(
    cluster: Cluster, release: str, values: dict[str, Any], bob: requests.Session
) -> None:
    """What only the container can see: nobody may come in."""
    wrong = merged(values, {"replicaCount": 1, "settings": {"OAUTH2_PROXY_EMAIL_DOMAINS": ""}})
    done = cluster.helm("upgrade", release, str(CHART), "--wait", "--timeout=60s", "--force-conflicts", values=wrong)
    assert done.returncode != 0
    messages = [
        json.dumps(status.get("lastState", {})) + json.dumps(status.get("state", {}))
        for pod in cluster.pods(release)
        for status in pod["status"]["containerStatuses"]
    ]
    assert any("OAUTH2_PROXY_EMAIL_DOMAINS" in message for message in messages), messages
    assert bob.get(f"{cluster.address(release)}/gatehouse/whoami", timeout=20).ok
    back = cluster.helm("upgrade", release, str(CHART), "--wait", "--timeout=240s", "--force-conflicts", values=values)
    assert back.returncode == 0, f"{back.stderr}\n{cluster.state()}"


def test_a_rollback_to_an_image_too_old_for_the_schema_is_refused_with_the_reason(
    cluster: Cluster, release: str, bob: requests.Session
) -> None:
    with database() as cursor:
        cursor.execute("SELECT version_num FROM alembic_version")
        (now,) = cursor.fetchone()
        cursor.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    try:
        before = {pod["metadata"]["name"] for pod in cluster.pods(release)}
        done = cluster.helm("rollback", release, "--wait", "--timeout=120s")
        told = done.stdout + done.stderr
        assert done.returncode != 0
        (pod,) = json.loads(
            cluster.kubectl("get", "pods", f"--selector=job-name={release}-gatehouse-check", "--output", "json")
        )["items"]
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["exitCode"] == Exit.SCHEMA_UNKNOWN
        assert "ffffffffffff" in told + ended["message"]
        assert {pod["metadata"]["name"] for pod in cluster.pods(release)} == before
        assert bob.get(f"{cluster.address(release)}/gatehouse/whoami", timeout=20).ok
    finally:
        with database() as cursor:
            cursor.execute("UPDATE alembic_version SET version_num = %s", (now,))
