"""A database with runs gets workspaces, works, and goes back; what others hold isn't lost sight of silently."""

from __future__ import annotations

from pathlib import Path

from gatehouse.exit_codes import Exit
from tests.access.conftest import QUIET
from tests.support import Gate, Postgres, Provider, running
from tests.teams.conftest import POLICY, Member

WITHOUT = "default: none\nroles: {admin: [user:alice@example.com]}\n"
RUNS = 1000


def test_an_existing_database_is_switched_on_works_and_is_switched_off_again(
    provider: Provider, postgres: Postgres, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    environment = {
        "BACKEND_STORE_URI": postgres.create("switched"),
        "ACCESS_POLICY": str(policy),
        "WORKERS": "1",
        **QUIET,
    }

    def gate() -> Gate:
        return Gate(tmp_path / "gate", provider, **environment)

    def count(member: Member) -> int:
        found = member.post("runs/search", experiment_ids=["0"], max_results=2 * RUNS)
        return len(found.json().get("runs", []))

    policy.write_text(WITHOUT)
    with running(gate()) as part:
        alice = Member(part, "alice", None)
        run = alice.run()
        path = f"0/{run}/artifacts/old.txt"
        alice.call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", data=b"old").raise_for_status()
        many = f"""INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id)
            SELECT md5(i::text), 'old', 'x', 'FINISHED', i, 'active', 'mlflow-artifacts:/0/x/artifacts', 0
            FROM generate_series(2, {RUNS}) i"""
        postgres.sql(many, "switched")
        assert count(alice) == RUNS
    policy.write_text(POLICY)
    with running(gate()) as part:
        assert "made the workspace fraud, which the access policy declares" in part.log()
        alice, fred = Member(part, "alice", None), Member(part, "fred", "fraud")
        assert count(alice) == RUNS
        old = {"run_id": run, "path": "old.txt"}
        assert alice.call("GET", "/get-artifact", params=old).content == b"old"
        assert count(fred) == 0
        assert fred.call("GET", "/get-artifact", params=old).status_code == 404
        experiment = fred.make("experiments/create", name="theirs")["experiment_id"]
    policy.write_text(WITHOUT)
    refused = gate().start()
    assert refused.wait_end() == Exit.SETTINGS
    assert "workspaces are off, and the database has some that hold data (fraud: 1 experiments)" in refused.log()
    postgres.sql(f"DELETE FROM experiment_tags WHERE experiment_id = {experiment}", "switched")
    postgres.sql(f"DELETE FROM experiments WHERE experiment_id = {experiment}", "switched")
    with running(gate()) as part:
        assert count(Member(part, "alice", None)) == RUNS
