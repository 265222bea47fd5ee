"""Not even an administrator's webhook makes the server call what only the server can reach."""

from __future__ import annotations

import pytest

from tests.access.conftest import Client

EVENTS = [{"entity": "MODEL_VERSION", "action": "CREATED"}]


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token",
        "https://127.0.0.1:8080/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://localhost/",
        "http://example.com/",
        "file:///etc/passwd",
    ],
)
def test_a_webhook_to_an_address_inside_is_refused(alice: Client, url: str) -> None:
    answer = alice.post("webhooks", name="inside", url=url, events=EVENTS)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    made = alice.call("GET", "/api/2.0/mlflow/webhooks").json().get("webhooks", [])
    assert "inside" not in [webhook["name"] for webhook in made]
