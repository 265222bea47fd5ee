"""``mlflow-gatehouse login``: in a real browser and by device code, at a certified provider.

Kept, renewed, forgotten.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mlflow_gatehouse import sign_ins
from mlflow_gatehouse.errors import ConfigurationError
from mlflow_gatehouse.identity_token import claims_of
from tests.client.conftest import PATIENCE, Machine, login, read_until
from tests.client.googleapis import Google
from tests.client.impostor import Impostor, standing_in
from tests.client.openid import HOURLY_CLIENT_ID, LOGIN_CLIENT_ID, OpenIdProvider, sign_in
from tests.support import missing, wait_for


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        missing("Chromium", "apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(binary)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(driver)))
    yield browser
    browser.quit()


def test_a_person_signs_in_in_a_browser(machine: Machine, chromium: webdriver.Chrome) -> None:
    process = machine.start(machine.python, "-m", "mlflow_gatehouse", "login", "--browser")
    chromium.get(read_until(process, r"^  (http\S+)"))
    chromium.find_element(By.NAME, "login").send_keys("alice@example.com")
    chromium.find_element(By.NAME, "password").send_keys("unused")
    chromium.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    wait = WebDriverWait(chromium, PATIENCE)
    wait.until(lambda browser: "consent" in browser.page_source.lower())
    chromium.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    wait.until(lambda browser: "Signed in" in browser.page_source)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "Signed in as alice@example.com" in said
    assert "knows you as alice@example.com" in machine.gatehouse("whoami").stdout


def test_a_person_signs_in_by_device_code(machine: Machine) -> None:
    process = machine.start(machine.python, "-m", "mlflow_gatehouse", "login", "--device")
    code = read_until(process, r"type the code (\S+)")
    assert re.fullmatch(r"[A-Z]{4}-[A-Z]{4}", code)
    sign_in(read_until(process, r"or go to (\S+)"), "bob@example.com")
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "knows you as bob@example.com" in machine.gatehouse("whoami").stdout


def test_new_processes_go_on_without_a_new_sign_in_after_the_token_ended(
    machine: Machine, openid: OpenIdProvider
) -> None:
    login(machine)
    first = machine.gatehouse("token").stdout.strip()
    ended = claims_of(first)["exp"]
    renewed = wait_for(
        lambda: claims_of(token := machine.gatehouse("token").stdout.strip())["exp"] > ended and token,
        "a renewed token",
        openid.life * 3,
    )
    assert renewed != first
    assert claims_of(renewed)["sub"] == "alice@example.com"


def test_many_processes_at_once_renew_once(machine: Machine, openid: OpenIdProvider) -> None:
    """A provider that rotates refresh tokens takes the second use of one for theft, and ends the sign-in."""
    login(machine, "--client-id", HOURLY_CLIENT_ID)
    kept = next((machine.home / ".config" / "gatehouse").glob("*.json"))
    record = json.loads(kept.read_text())
    record["id_token"] = openid.sign(life=-60, aud=HOURLY_CLIENT_ID)
    kept.write_text(json.dumps(record))
    before = openid.granted("refresh_token")
    processes = [machine.start(machine.python, "-m", "mlflow_gatehouse", "token") for _ in range(6)]
    tokens = [process.communicate(timeout=PATIENCE)[0].strip() for process in processes]
    assert len(set(tokens)) == 1
    assert tokens[0]
    assert openid.granted("refresh_token") - before == 1


def test_the_sign_in_is_kept_in_a_file_that_nobody_else_can_read(machine: Machine) -> None:
    said = login(machine)
    kept = next((machine.home / ".config" / "gatehouse").glob("*.json"))
    assert str(kept) in said
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    kept.chmod(0o644)
    shown = machine.gatehouse("token", expect=78, GATEHOUSE_TOKEN_SOURCE="login")
    assert "can be read by others" in shown.stderr


def test_logout_forgets_here_and_at_the_provider(machine: Machine, openid: OpenIdProvider) -> None:
    login(machine)
    kept = next((machine.home / ".config" / "gatehouse").glob("*.json"))
    refresh_token = json.loads(kept.read_text())["refresh_token"]
    assert "Signed out" in machine.gatehouse("logout").stderr
    assert not kept.exists()
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": LOGIN_CLIENT_ID}
    answer = requests.post(f"{openid.issuer}/token", data=form, timeout=10)
    assert answer.json()["error"] == "invalid_grant"
    assert "Nobody was signed in" in machine.gatehouse("logout").stderr


def altered(machine: Machine, **values: object) -> Path:
    """Change what is kept of the sign-in; return its file."""
    kept = next((machine.home / ".config" / "gatehouse").glob("*.json"))
    kept.write_text(json.dumps(json.loads(kept.read_text()) | values))
    return kept


@pytest.mark.parametrize("provider", ["out of order", "gone"])
def test_logout_tells_of_a_revocation_that_failed(machine: Machine, provider: str) -> None:
    login(machine)
    broken = Impostor(503, '{"error": "temporarily_unavailable"}', Content_Type="application/json")
    with standing_in(broken) if provider == "out of order" else contextlib.nullcontext():
        url = broken.url if provider == "out of order" else "http://127.0.0.1:9"
        kept = altered(machine, revocation_endpoint=f"{url}/revoke")
        said = machine.gatehouse("logout", expect=69).stderr
    assert "forgotten here" in said
    assert ("HTTP 503" if provider == "out of order" else "no answer") in said
    assert "end the session on your account's page" in said
    assert not kept.exists()


def test_logout_says_where_the_provider_has_no_revocation(machine: Machine) -> None:
    login(machine)
    altered(machine, revocation_endpoint=None)
    said = machine.gatehouse("logout").stderr
    assert "Signed out" in said
    assert "has no way to revoke a sign-in" in said


def test_a_sign_in_goes_before_the_machines_own_identity(machine: Machine, google: Google) -> None:
    login(machine)
    environment = {"NO_GCE_CHECK": "", **google.as_metadata}
    assert "alice@example.com" in machine.gatehouse("whoami", env=environment).stdout
    assert google.count("/identity") == 0
    explained = machine.gatehouse("token", "--explain", env=environment).stdout
    assert "not asked: login came first" in explained


def test_a_sign_in_that_ended_is_no_reason_to_come_as_the_machine(
    machine: Machine, google: Google, openid: OpenIdProvider
) -> None:
    login(machine)
    altered(machine, id_token=openid.sign(life=-60, aud=LOGIN_CLIENT_ID), refresh_token="revoked")
    shown = machine.gatehouse("token", expect=67, NO_GCE_CHECK="", env=google.as_metadata)
    assert "sign in anew: mlflow-gatehouse login" in shown.stderr
    assert google.count("/identity") == 0


def test_a_folder_that_cannot_be_used_is_an_error_with_a_text(machine: Machine) -> None:
    shown = machine.gatehouse("login", "--device", expect=78, GATEHOUSE_CONFIG="/dev/null/gatehouse").stderr
    assert "can't be kept in /dev/null/gatehouse" in shown
    assert "export GATEHOUSE_CONFIG=" in shown
    assert "Nobody was signed in" in machine.gatehouse("logout", GATEHOUSE_CONFIG="/dev/null/gatehouse").stderr


def test_a_store_that_stays_locked_on_windows_is_an_error_with_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows' own lock gives up after ten seconds with this very error; there is no Windows here to show it."""
    tried: list[int] = []

    def locking(_handle: int, _mode: int, _bytes: int) -> None:
        tried.append(1)
        raise OSError(errno.EDEADLK, "Resource deadlock avoided")

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_LOCK=1, locking=locking))
    monkeypatch.setattr(sign_ins, "WINDOWS", True)
    monkeypatch.setenv("GATEHOUSE_CONFIG", str(tmp_path))
    with (
        pytest.raises(ConfigurationError, match="is locked by another process") as told,
        sign_ins.locked("https://a.example.com"),
    ):
        pass
    assert "end the other" in told.value.fix
    assert len(tried) == 3


def test_a_sign_in_that_was_revoked_says_what_to_run(machine: Machine, openid: OpenIdProvider) -> None:
    login(machine)
    kept = next((machine.home / ".config" / "gatehouse").glob("*.json"))
    record = json.loads(kept.read_text())
    form = {"token": record["refresh_token"], "client_id": LOGIN_CLIENT_ID}
    requests.post(f"{openid.issuer}/token/revocation", data=form, timeout=10).raise_for_status()
    record["id_token"] = openid.sign(life=-60, aud=LOGIN_CLIENT_ID)
    kept.write_text(json.dumps(record))
    shown = machine.gatehouse("token", expect=67)
    assert "invalid_grant" in shown.stderr
    assert f"sign in anew: mlflow-gatehouse login {machine.url}" in shown.stderr


def test_a_server_that_changes_its_mind_does_not_get_the_refresh_token(
    machine: Machine, openid: OpenIdProvider
) -> None:
    """The provider's addresses are those of the sign-in, not those that the server names today."""
    login(machine)
    kept = next((machine.home / ".config" / "gatehouse").glob("*.json"))
    assert json.loads(kept.read_text())["token_endpoint"] == f"{openid.issuer}/token"


def test_another_pages_request_to_the_callback_does_not_end_the_sign_in(machine: Machine) -> None:
    process = machine.start(machine.python, "-m", "mlflow_gatehouse", "login", "--browser")
    address = read_until(process, r"^  (http\S+)")
    port = re.search(r"redirect_uri=http%3A%2F%2F127.0.0.1%3A(\d+)%2Fcallback", address)
    assert port, address
    callback = f"http://127.0.0.1:{port[1]}/callback"
    assert requests.get(f"{callback}?code=stolen&state=guessed", timeout=10).status_code == 404
    assert requests.get(f"{callback}?error=access_denied", timeout=10).status_code == 404
    assert process.poll() is None
    sign_in(address)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


def test_a_person_who_declines_is_told_so(machine: Machine) -> None:
    process = machine.start(machine.python, "-m", "mlflow_gatehouse", "login", "--browser")
    address = read_until(process, r"^  (http\S+)")
    with requests.Session() as browser:
        page = browser.get(address, timeout=10)
        with contextlib.suppress(requests.ConnectionError):
            browser.get(f"{page.url}/abort", timeout=10)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 67
    assert "access_denied" in said


def test_a_provider_in_the_clear_is_refused(machine: Machine) -> None:
    shown = machine.gatehouse("login", "--issuer", "http://id.example.com", "--client-id", "x", expect=78)
    assert "isn't https" in shown.stderr
