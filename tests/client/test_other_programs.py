"""What knows no plug-in: a file that stays fresh, and OpenTelemetry's exporter as docs/clients.md sets it."""

from __future__ import annotations

import re
import stat
import time

from local.proxy_binary import ROOT
from mlflow_gatehouse.identity_token import claims_of
from tests.client.conftest import Machine, login
from tests.client.openid import OpenIdProvider
from tests.support import wait_for

EXPORT = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
with provider.get_tracer("docs").start_as_current_span("as the documentation says"):
    pass
provider.shutdown()
import mlflow
found = mlflow.MlflowClient().search_traces(locations=["0"])
print([span.name for trace in found for span in trace.data.spans])
"""


def test_the_watched_file_always_holds_a_living_token(machine: Machine, openid: OpenIdProvider) -> None:
    login(machine)
    path = machine.home / "token"
    process = machine.start(machine.python, "-m", "mlflow_gatehouse", "token", "--watch", str(path))
    seen: list[str] = []

    def renewed() -> bool:
        assert process.poll() is None, process.communicate()
        if not path.exists():
            return False
        token = path.read_text()
        assert token.count(".") == 2, "a reader never sees half a token"
        assert claims_of(token)["exp"] > time.time() - 1
        if token not in seen:
            seen.append(token)
        return len(seen) >= 3

    try:
        wait_for(renewed, "two renewals", openid.life * 20)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(machine.home.glob(".new-*")) == []
        environment = {"MLFLOW_TRACKING_TOKEN_FILE": str(path), "GATEHOUSE_TOKEN_SOURCE": "environment"}
        assert "knows you as alice@example.com" in machine.gatehouse("whoami", env=environment).stdout
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_a_file_that_cannot_be_watched_is_an_error_with_a_text(machine: Machine, openid: OpenIdProvider) -> None:
    environment = {"MLFLOW_TRACKING_TOKEN": openid.token()}
    shown = machine.gatehouse("token", "--watch", "/dev/null/token", expect=78, env=environment)
    assert "--watch: /dev/null/token can't be written" in shown.stderr
    both = machine.gatehouse("token", "--watch", "x", "--explain", expect=64, env=environment)
    assert "give one of the two" in both.stderr


def test_opentelemetrys_exporter_as_the_documentation_sets_it(machine: Machine, openid: OpenIdProvider) -> None:
    docs = (ROOT / "docs" / "clients.md").read_text()
    block = re.search(r"```sh\n(export OTEL_.*?)```", docs, re.S)
    assert block
    commands = block[1].replace("https://mlflow.example.com", machine.url)
    (machine.home / "export.py").write_text(EXPORT)
    environment = {"MLFLOW_TRACKING_TOKEN": openid.token("bob")}
    done = machine.run("bash", "-euc", f"{commands}\npython export.py", env=environment)
    assert "as the documentation says" in done.stdout, done.stderr
