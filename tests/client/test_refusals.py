"""What isn't MLflow's answer is an error that says what to do; nothing is lost without a word."""

from __future__ import annotations

import pytest
from joserfc.jwk import RSAKey

from tests.client.conftest import Machine
from tests.client.impostor import Impostor, standing_in
from tests.client.openid import OpenIdProvider

UPLOAD = """
import sys
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
open("model.txt", "w").write("weights")
HttpArtifactRepository(sys.argv[1] + "/api/2.0/mlflow-artifacts/artifacts/1").log_artifact("model.txt")
print("logged")
"""
MLFLOW_SEARCH = "import mlflow; mlflow.search_experiments()"
# The same request as MLflow's, without the three seconds that MLflow takes to import.
SEARCH = """
import os, requests
from mlflow_gatehouse.plugin import GatehouseAuthProvider
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/experiments/search"
requests.post(url, json={"max_results": 1}, auth=GatehouseAuthProvider().get_auth()).raise_for_status()
"""
PAGE = {"Content_Type": "text/html; charset=utf-8"}


def upload(machine: Machine, url: str, expect: int = 0, **environment: str) -> str:
    """Log an artifact with MLflow's own class; return all that was printed."""
    environment = {"MLFLOW_TRACKING_URI": url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"} | environment
    done = machine.run(machine.python, "-c", UPLOAD, url, expect=expect, env=environment)
    return done.stdout + done.stderr


def search(machine: Machine, url: str, **environment: str) -> str:
    """Search, which must fail; return all that was printed."""
    environment = {"MLFLOW_TRACKING_URI": url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"} | environment
    done = machine.script(SEARCH, expect=1, env=environment)
    return done.stdout + done.stderr


def test_a_redirect_to_a_login_page_is_an_error_not_a_lost_artifact(machine: Machine, openid: OpenIdProvider) -> None:
    login_page = Impostor(200, "<html>Sign in</html>", **PAGE)
    server = Impostor(302, Location=f"{login_page.url}/authorize")
    token = openid.token()
    with standing_in(login_page, server):
        bare = upload(machine, server.url, MLFLOW_TRACKING_AUTH="", MLFLOW_TRACKING_TOKEN=token)
        assert "logged" in bare, "MLflow by itself takes the login page for a success"
        login_page.seen.clear()
        said = upload(machine, server.url, expect=1, MLFLOW_TRACKING_TOKEN=token)
    assert f"wants a sign-in at {login_page.url}" in said
    assert "nothing was stored" in said
    assert login_page.seen == [], "the redirect wasn't followed"


def test_a_web_page_in_place_of_an_answer_is_an_error(machine: Machine, openid: OpenIdProvider) -> None:
    server = Impostor(200, "<html>Welcome to the hotel's network</html>", **PAGE)
    with standing_in(server):
        said = upload(machine, server.url, expect=1, MLFLOW_TRACKING_TOKEN=openid.token())
    assert "answered with a web page where MLflow answers with data; nothing was stored" in said


def test_an_artifact_that_is_a_web_page_is_no_error(machine: Machine, openid: OpenIdProvider) -> None:
    text = """
import mlflow, pathlib
with mlflow.start_run() as run:
    mlflow.log_text("<html>report</html>", "report.html")
path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="report.html")
assert pathlib.Path(path).read_text() == "<html>report</html>"
"""
    machine.script(text, MLFLOW_TRACKING_TOKEN=openid.token())


def test_the_token_goes_to_no_other_host(machine: Machine, openid: OpenIdProvider) -> None:
    """Whoever may write a run can give it an artifact address anywhere."""
    elsewhere = Impostor(401, "{}", Content_Type="application/json")
    token = openid.token()
    with standing_in(elsewhere):
        upload(machine, elsewhere.url, expect=1, MLFLOW_TRACKING_AUTH="", MLFLOW_TRACKING_TOKEN=token)
        assert elsewhere.asked[-1][2]["authorization"] == f"Bearer {token}", "MLflow by itself sends it anywhere"
        elsewhere.seen.clear()
        environment = {"MLFLOW_TRACKING_URI": machine.url, "MLFLOW_TRACKING_TOKEN": token}
        said = upload(machine, elsewhere.url, expect=1, **environment)
        assert [headers.get("authorization") for _, _, headers in elsewhere.seen] == [None]
        assert f"{elsewhere.url} isn't the tracking server" in said
        elsewhere.seen.clear()
        upload(machine, elsewhere.url, expect=1, GATEHOUSE_SERVERS=elsewhere.url, **environment)
        assert elsewhere.asked[-1][2]["authorization"] == f"Bearer {token}", "unless it is trusted by name"


def test_a_password_is_not_sent_in_place_of_the_token(machine: Machine, openid: OpenIdProvider) -> None:
    """MLflow puts a user name and password before a token; the plug-in puts the token there."""
    environment = {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}
    machine.script(MLFLOW_SEARCH, MLFLOW_TRACKING_TOKEN=openid.token(), env=environment)


def test_plain_http_to_another_machine_is_refused(machine: Machine, openid: OpenIdProvider) -> None:
    said = search(machine, "http://mlflow.example.com", MLFLOW_TRACKING_TOKEN=openid.token())
    assert "http://mlflow.example.com isn't https" in said


def test_a_proxy_between_this_machine_and_itself_is_refused(machine: Machine, openid: OpenIdProvider) -> None:
    proxy = Impostor(200, "{}", Content_Type="application/json")
    with standing_in(proxy):
        said = search(
            machine, machine.url, HTTP_PROXY=proxy.url, http_proxy=proxy.url, MLFLOW_TRACKING_TOKEN=openid.token()
        )
        assert proxy.seen == []
    assert "export NO_PROXY=localhost" in said


def test_an_identity_that_is_not_allowed_is_named(machine: Machine, openid: OpenIdProvider) -> None:
    said = search(machine, machine.url, MLFLOW_TRACKING_TOKEN=openid.token("mallory@evil.example"))
    assert f"{machine.url} knows mallory@evil.example, and doesn't let this identity in" in said
    assert "mlflow-gatehouse token --explain" in said


def test_a_token_of_another_signer_says_whose_it_is(machine: Machine, openid: OpenIdProvider) -> None:
    forged = openid.sign(key=RSAKey.generate_key(2048))
    said = search(machine, machine.url, MLFLOW_TRACKING_TOKEN=forged)
    assert f"{machine.url} doesn't take the token from environment (issuer {openid.issuer}" in said


def test_a_wrong_clock_is_named(machine: Machine, openid: OpenIdProvider) -> None:
    server = Impostor(401, "{}", Content_Type="application/json")
    server.clock_ahead = 1800
    with standing_in(server):
        said = search(machine, server.url, MLFLOW_TRACKING_TOKEN=openid.token())
    assert "this machine's clock is 1800 s behind the server's" in said or "clock is 1799 s behind" in said


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            Impostor(403, "<html>Your client does not have permission to get URL /</html>", **PAGE),
            "Cloud Run itself refused the request",
        ),
        (
            Impostor(401, "Invalid IAP credentials", X_Goog_IAP_Generated_Response="true"),
            "Identity-Aware Proxy in front of",
        ),
        (Impostor(407, ""), "a proxy on the way wants a sign-in of its own"),
    ],
    ids=["Cloud Run", "IAP", "company proxy"],
)
def test_what_stands_in_between_is_named(machine: Machine, openid: OpenIdProvider, server: Impostor, said: str) -> None:
    with standing_in(server):
        assert said in search(machine, server.url, MLFLOW_TRACKING_TOKEN=openid.token())


def test_what_mlflow_itself_refuses_stays_mlflows_error(machine: Machine, openid: OpenIdProvider) -> None:
    text = """
import mlflow
from mlflow.exceptions import RestException
try:
    mlflow.MlflowClient().get_run("0" * 32)
except RestException as error:
    print(error.error_code)
"""
    done = machine.script(text, MLFLOW_TRACKING_TOKEN=openid.token())
    assert done.stdout.strip() == "RESOURCE_DOES_NOT_EXIST"


def test_settings_that_the_server_offers_are_taken_up_and_nothing_else_of_it(
    machine: Machine, openid: OpenIdProvider
) -> None:
    server = Impostor(200, "{}", Content_Type="application/json")
    server.describe(
        mlflow={
            "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": True,
            "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": 5_000_000,
            "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "$(rm -rf /)",
            "MLFLOW_TRACKING_INSECURE_TLS": True,
            "MLFLOW_TRACKING_URI": "https://evil.example",
        }
    )
    text = f"""
import mlflow
mlflow.search_experiments()
from mlflow.environment_variables import (
    MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD as on, MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE as size,
    MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE as chunk, MLFLOW_TRACKING_INSECURE_TLS as insecure,
)
print(on.get(), size.get(), chunk.is_set(), insecure.get(), mlflow.get_tracking_uri() == {server.url!r})
"""
    with standing_in(server):
        environment = {"MLFLOW_TRACKING_URI": server.url, "MLFLOW_TRACKING_TOKEN": openid.token()}
        assert machine.script(text, env=environment).stdout.split() == ["True", "5000000", "False", "False", "True"]
        mine = machine.script(text, MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE="7", env=environment)
        assert mine.stdout.split()[1] == "7", "what the user has set stays"
