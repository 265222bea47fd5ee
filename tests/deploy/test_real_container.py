"""The whole way: `apply` and `smoke` with the real image behind the emulated Cloud Run, a real PostgreSQL and a real
sign-in.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.container.parts import GATEHOUSE, build_images, connect
from tests.deploy.conftest import CLIENT_SECRET, PROJECT, URL, Tool, image
from tests.deploy.emulator import Emulator
from tests.deploy.runtimes import Docker, Server
from tests.deploy.test_release import served_image
from tests.support import Postgres, Provider

CI_ACCOUNT = f"ci@{PROJECT}.iam.gserviceaccount.com"


def options(provider: Provider) -> dict[str, Any]:
    """Return the environment's settings: people of example.com and the project's own service accounts may come in."""
    domains = ["example.com", f"{PROJECT}.iam.gserviceaccount.com"]
    oauth = {"email_domains": domains, "issuer": provider.issuer}
    return {"oauth": oauth, "service": {"startup_timeout": 240}, "access_policy": "access.yaml"}


@pytest.fixture
def engine() -> None:
    """Docker with the image of these sources, or the reason why not."""
    connect().close()
    with (Path(tempfile.gettempdir()) / "gatehouse-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as in tests/container: several test processes may come at a time
        build_images()


@pytest.fixture
def real(
    engine: None,
    cloud: Emulator,
    make_tool: Callable[[Emulator], Tool],
    postgres: Postgres,
    provider: Provider,
) -> Tool:
    """The tool on a project whose Cloud Run runs the real image, signed in to by the local provider."""
    del engine
    server = Server(postgres)
    cloud.sql.engine = server
    cloud.run.runtime = Docker(cloud, server, GATEHOUSE)
    cloud.iam.sign = lambda account, audience: provider.token_of(account, audience)
    tool = make_tool(cloud)
    roles = {"admin": ["user:alice@example.com"], "editor": [f"serviceAccount:{CI_ACCOUNT}"]}
    (tool.home / "access.yaml").write_text(yaml.safe_dump({"default": "viewer", "roles": roles}))
    tool.configure(**options(provider))
    tool.extra["MLFLOW_TRACKING_TOKEN"] = provider.token_of("alice@example.com", URL)
    tool.extra["NO_PROXY"] = "127.0.0.1,localhost"
    return tool


def test_apply_smoke_release_and_rotate_through_the_real_container(real: Tool, provider: Provider) -> None:
    client = ("--oauth-client", str(real.client_file()))
    result = real.good("apply", "--yes", *client)
    for told in (
        "✓ strangers get 401",
        "✓ a browser is sent to sign in",
        "✓ curl with a token gets in",
        "✓ the SDK logs a run with an artifact",
    ):
        assert told in result.out
    bucket = real.cloud.storage.buckets[f"{PROJECT}-mlflow-dev"]
    assert bucket.objects == {}, "the smoke test left something behind"
    assert "storage.objects.insert" in {request.method for request in real.cloud.requests}, (
        "no artifact went to the bucket"
    )
    assert "storage.objects.delete" in {request.method for request in real.cloud.requests}

    # A new release: backup, migration, the candidate tested at its own address, then traffic.
    real.configure(image=image("2"), **options(provider))
    result = real.good("apply", "--yes")
    assert result.out.count("✓ strangers get 401") == 2
    assert served_image(real) == image("2")

    # A smoke test that fails at the candidate: a token for another audience.
    token = real.extra["MLFLOW_TRACKING_TOKEN"]
    real.extra["MLFLOW_TRACKING_TOKEN"] = provider.token_of("alice@example.com", "https://somebody.else")
    real.configure(image=image("1"), **options(provider))
    result = real.run("apply", "--yes")
    assert result.code == 1
    assert "curl with a token gets in: no: got 401" in result.out
    assert "OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES" in result.out
    assert served_image(real) == image("2")
    real.extra["MLFLOW_TRACKING_TOKEN"] = token

    # The database's password, with a server that asks for it.
    engine = real.cloud.sql.engine
    assert isinstance(engine, Server)
    engine.ask_for_passwords()
    real.configure(image=image("2"), **options(provider))
    real.good("rotate", "database")
    told = real.run("doctor").out
    assert f"✓ redirect URI: {URL}/oauth2/callback is known to the identity provider" in told
    assert f"✓ audience: your token is for {URL}" in told

    # As CI comes in: with the identity token of a service account, which gcloud asks for.
    del real.extra["MLFLOW_TRACKING_TOKEN"]
    real.cloud.iam.accounts[CI_ACCOUNT] = {"email": CI_ACCOUNT, "uniqueId": "42"}
    real.configure(image=image("2"), smoke={"impersonate": CI_ACCOUNT}, **options(provider))
    result = real.good("smoke")
    assert f"✓ {URL}" in result.out
    assert "only an admin may delete artifacts" in result.out  # it is an editor
    assert "iamcredentials.projects.serviceAccounts.generateIdToken" in {
        request.method for request in real.cloud.requests
    }

    seen = real.record.read_bytes() + "".join(real.printed).encode()
    assert CLIENT_SECRET.encode() not in seen
    assert token.encode() not in seen
