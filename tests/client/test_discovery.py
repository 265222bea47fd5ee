"""What the server says before the sign-in: enough to sign in with, and nothing else."""

from __future__ import annotations

import pytest
import requests
import tomllib

from gatehouse import __version__
from gatehouse.public import discovery
from gatehouse.start import proxy_config
from local.proxy_binary import ROOT
from local.run import CLIENT_ID
from mlflow_gatehouse.server import OFFERED_SETTINGS, Server
from tests.client.conftest import AUDIENCES
from tests.client.googleapis import GCLOUD_AUDIENCE
from tests.client.openid import LOGIN_CLIENT_ID, OpenIdProvider
from tests.support import Gate

TEMPLATE = ROOT / "oauth2_proxy.cfg.tmpl"
PATH = "/.well-known/gatehouse"
WHEEL = f"{PATH}/mlflow_gatehouse-{__version__}-py3-none-any.whl"


def rendered(provider: str, login_client_id: str | None = None) -> dict[str, object]:
    url = "https://mlflow.example.com"
    text = proxy_config.render(TEMPLATE.read_text(), provider, url, ROOT, login_client_id, discovery.open_paths(None))
    return tomllib.loads(text)


def test_anybody_may_read_it_and_it_names_provider_client_and_audiences(front: Gate, openid: OpenIdProvider) -> None:
    answer = requests.get(front.url + PATH, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    about = answer.json()
    assert about.pop("client")["name"] == "mlflow-gatehouse"
    assert about == {
        "version": 1,
        "issuer": openid.issuer,
        "client_id": LOGIN_CLIENT_ID,
        "audiences": sorted([front.url, CLIENT_ID, *AUDIENCES]),
    }


def test_no_secret_of_the_gate_is_in_it(front: Gate) -> None:
    text = requests.get(front.url + PATH, timeout=10).text
    for name, value in front.environment.items():
        if "SECRET" in name or name == "BACKEND_STORE_URI":
            assert value not in text, name


def published(front: Gate) -> list[str]:
    return [requests.get(front.url + path, timeout=10).text for path in (PATH, f"{PATH}/requirements.txt")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PATH),
        ("DELETE", PATH),
        ("GET", PATH + "/"),
        ("GET", PATH + "x"),
        ("GET", "/x" + PATH),
        ("GET", PATH + "/../../api/2.0/mlflow/experiments/search?max_results=1"),
        ("GET", "/.well-known/%67atehouse"),
        ("GET", "/.well-known/gatehouse%2f..%2f..%2fversion"),
        ("GET", "//.well-known/gatehouse"),
        ("GET", PATH + ";/../version"),
        ("POST", WHEEL),
        ("PUT", PATH + "/requirements.txt"),
        ("GET", WHEEL + "/"),
        ("GET", WHEEL + "x"),
        ("GET", WHEEL.replace(".whl", ".whl.asc")),
        ("GET", WHEEL.replace(__version__, "0.0.0")),
        ("GET", WHEEL.replace(".", "x")),
        ("GET", PATH + "//requirements.txt"),
        ("GET", PATH + "/requirements.txt/../../../version"),
        ("GET", PATH + "/gatehouse.json"),
        ("GET", PATH + "/../published/gatehouse.json"),
        ("GET", PATH + "/..%2fproof"),
        ("GET", PATH + "/%2e%2e/proxy.env"),
        ("GET", PATH + "/requirements.txt%00.whl"),
        ("HEAD", PATH + "/proof"),
    ],
)
def test_it_opens_no_other_way_in(front: Gate, method: str, path: str) -> None:
    with requests.Session() as session:
        request = requests.Request(method, front.url).prepare()
        request.url = front.url + path  # as it stands, not tidied up
        answer = session.send(request, timeout=10, allow_redirects=False)
    if answer.status_code == 200:
        assert answer.text in published(front), "what is open anyway, under another spelling"
    else:
        assert answer.status_code in {301, 400, 401, 404, 405}, answer.status_code
        assert "experiments" not in answer.text


def test_identity_headers_of_a_stranger_do_not_pass_by_this_way(front: Gate) -> None:
    headers = {"X-Forwarded-Email": "alice@example.com", "Authorization": "Basic YWxpY2U6cHJvb2Y="}
    forged = requests.get(front.url + PATH, headers=headers, timeout=10)
    assert forged.json() == requests.get(front.url + PATH, timeout=10).json()


def test_google_as_it_is_rendered() -> None:
    about = discovery.from_proxy(rendered("google"), {"OAUTH2_PROXY_CLIENT_ID": "web"}, None)
    assert about["issuer"] == "https://accounts.google.com"
    assert about["audiences"] == sorted([GCLOUD_AUDIENCE, "https://mlflow.example.com", "web"])
    assert "client_id" not in about


def test_the_original_recipes_file() -> None:
    file = {
        "provider": "google",
        "client_id": "web",
        "extra_jwt_issuers": [f"https://accounts.google.com={GCLOUD_AUDIENCE}"],
    }
    about = discovery.from_proxy(file, {}, None)
    assert about["audiences"] == [GCLOUD_AUDIENCE], "that provider takes no token for its own client"


def test_a_variable_wins_over_the_file_as_for_the_proxy_itself() -> None:
    file = {"provider": "oidc", "oidc_issuer_url": "https://old.example.com", "oidc_extra_audiences": ["old"]}
    environment = {
        "OAUTH2_PROXY_OIDC_ISSUER_URL": "https://id.example.com",
        "OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES": "new,newer",
        "OAUTH2_PROXY_CLIENT_ID": "web",
    }
    about = discovery.from_proxy(file, environment, "cli")
    assert about["issuer"] == "https://id.example.com"
    assert about["audiences"] == ["new", "newer", "web"]


@pytest.mark.parametrize("provider", ["google", "oidc", "keycloak-oidc", "entra-id"])
def test_the_login_client_is_an_audience_of_the_proxy(provider: str) -> None:
    audiences = rendered(provider, 'odd "client"')["oidc_extra_audiences"]
    assert isinstance(audiences, list)
    assert 'odd "client"' in audiences


def test_a_login_client_that_the_proxy_would_not_take_is_a_problem_of_the_settings(
    front: Gate, openid: OpenIdProvider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = Gate(
        tmp_path_factory.mktemp("refused"),
        openid,  # type: ignore[arg-type]
        LOGIN_CLIENT_ID="cli",
        OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES=front.url,
    )
    assert gate.start().wait_end() == 78
    assert "LOGIN_CLIENT_ID is 'cli', and the proxy takes no token for that audience" in gate.log()
    assert "OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES" in gate.log()


def test_settings_that_the_server_offers_arrive_at_the_client() -> None:
    offered = {name: 5 if kind is int else True for name, kind in OFFERED_SETTINGS.items()}
    about = discovery.document(issuer=None, client_id=None, audiences=[], mlflow=offered)
    taken = Server("https://mlflow.example.com", about).settings()
    assert taken == {name: str(value).lower() for name, value in offered.items()}
