"""What clients of MLflow's first releases ask: it works, or says what does."""

from __future__ import annotations

from tests.support import Gate

OLD = "/api/2.0/preview/mlflow"


def test_the_calls_of_the_old_java_client_work(gate: Gate) -> None:
    with gate.session("alice") as alice:
        made = alice.post(f"{gate.url}{OLD}/experiments/create", json={"name": "of the old days"}, timeout=20)
        assert made.status_code == 200, made.text
        experiment = made.json()["experiment_id"]
        run = alice.post(f"{gate.url}{OLD}/runs/create", json={"experiment_id": experiment}, timeout=20).json()["run"]
        metric = {"run_uuid": run["info"]["run_uuid"], "key": "m", "value": 1.5, "timestamp": 1}
        assert alice.post(f"{gate.url}{OLD}/runs/log-metric", json=metric, timeout=20).status_code == 200
        found = alice.get(f"{gate.url}{OLD}/runs/get", params={"run_id": run["info"]["run_id"]}, timeout=20).json()
        assert found["run"]["data"]["metrics"][0]["value"] == 1.5


def test_an_old_path_is_judged_as_what_it_becomes(gate: Gate) -> None:
    with gate.session("carol") as carol:
        refused = carol.post(f"{gate.url}{OLD}/runs/create", json={"experiment_id": "0"}, timeout=20)
        assert refused.status_code == 403
        assert carol.get(f"{gate.url}{OLD}//experiments/create", timeout=20).status_code in {403, 404, 405}
        for spelled in ("preview%2Fmlflow/runs/create", "preview/../preview/mlflow/runs/create"):
            answer = carol.post(f"{gate.url}/api/2.0/{spelled}", json={"experiment_id": "0"}, timeout=20)
            assert answer.status_code in {403, 404}, answer.text


def test_what_is_gone_says_what_does_its_work(gate: Gate) -> None:
    with gate.session("alice") as alice:
        for path in ("/api/2.0/mlflow/experiments/list", f"{OLD}/experiments/list"):
            answer = alice.get(gate.url + path, timeout=20)
            assert answer.status_code == 404
            assert "experiments/search" in answer.json()["message"]
