"""``gatehouse doctor`` looks at all that a start depends on, changes nothing, and names what is wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from gatehouse.exit_codes import Exit
from tests.support import Gate, free_port


def doctor(gate: Gate, **changed: str) -> tuple[int, list[dict[str, object]]]:
    """Run the command in a gate's environment; return the exit code and the findings."""
    environment = {name: value for name, value in {**gate.environment, **changed}.items() if value}
    done = subprocess.run(
        ["gatehouse", "doctor", "--json", "--wait", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_set_up_is_told_to_be_so(make_gate: Callable[..., Gate], database: str) -> None:
    code, findings = doctor(make_gate(BACKEND_STORE_URI=database))
    assert code == Exit.OK
    assert [finding["part"] for finding in findings] == [
        "settings",
        "database",
        "artifacts",
        "identity provider",
    ]
    assert all(finding["ok"] for finding in findings)
    assert "is empty: the first start creates the schema" in str(findings[1]["text"])


def test_each_sick_part_is_named(make_gate: Callable[..., Gate], tmp_path: Path) -> None:
    nowhere = free_port()
    code, findings = doctor(
        make_gate(),
        BACKEND_STORE_URI=f"postgresql://u:topsecret@127.0.0.1:{nowhere}/d",
        OAUTH2_PROXY_OIDC_ISSUER_URL=f"http://localhost:{nowhere}",
        PORT="0",
    )
    assert code == Exit.SETTINGS
    wrong = {str(finding["part"]): str(finding["text"]) for finding in findings if not finding["ok"]}
    assert set(wrong) == {"settings", "database", "identity provider"}
    assert "PORT is '0'" in wrong["settings"]
    assert "can't be used" in wrong["database"]
    assert "topsecret" not in json.dumps(findings)
    assert not list(tmp_path.rglob("*.db"))


def test_an_issuer_under_another_name_is_named(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    other_name = gate.provider.issuer.replace("localhost", "127.0.0.1")
    # The provider calls itself by whatever name it is asked under, so a slash at the end makes the difference here.
    code, findings = doctor(gate, OAUTH2_PROXY_OIDC_ISSUER_URL=other_name + "/")
    assert code == Exit.SETTINGS
    assert "says that its issuer is" in str(findings[-1]["text"])


def test_health_tells_a_running_gate_from_none(gate: Gate) -> None:
    path = gate.environment["PATH"]
    assert (
        subprocess.run(["gatehouse", "health"], env={"PATH": path, "PORT": str(gate.port)}, check=False).returncode
        == Exit.OK
    )
    none = subprocess.run(
        ["gatehouse", "health"],
        env={"PATH": path, "PORT": str(free_port())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert none.returncode == Exit.UNAVAILABLE
    assert "nothing answers at" in none.stderr
