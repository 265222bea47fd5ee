"""A data scientist in a real Chromium: signs in with one click, works in the UI, signs out.

A stranger is told why not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from local.proxy_binary import ROOT
from tests.browser import Browser, chromium
from tests.support import Gate


@pytest.fixture
def browser(gate: Gate) -> Iterator[Browser]:
    with chromium(gate) as part:
        yield part


@pytest.fixture(scope="module")
def trained(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs of the example are in the gate."""
    folder = tmp_path_factory.mktemp("train")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MLFLOW_TRACKING_URI": gate.url,
        "MLFLOW_TRACKING_TOKEN": gate.provider.token(),
    }
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train.py")],
        env=environment,
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=180,
    )


def failed_requests(browser: Browser) -> list[str]:
    """Return the requests to the gate that the browser's console reports as failed."""
    return [
        message for message in browser.console() if message.startswith(browser.gate.url) and "Failed to load" in message
    ]


@pytest.mark.usefixtures("trained")
def test_alice_signs_in_sees_runs_and_creates_an_experiment_in_the_ui(browser: Browser, tmp_path: Path) -> None:
    browser.sign_in("alice")
    browser.wait_text("Experiments")
    assert browser.driver.current_url.startswith(browser.gate.url + "/")

    browser.driver.get(f"{browser.gate.url}/#/experiments")
    browser.wait(By.XPATH, "//a[normalize-space()='digits']")
    browser.driver.save_screenshot(str(tmp_path / "experiments.png"))

    browser.click(By.XPATH, "//button[@data-testid='create-experiment-button']|//button[normalize-space()='Create']")
    browser.wait(By.XPATH, "//input[contains(@placeholder, 'experiment name')]")
    browser.driver.find_element(By.XPATH, "//input[contains(@placeholder, 'experiment name')]").send_keys(
        "made-in-the-ui"
    )
    browser.click(By.XPATH, "//div[@role='dialog']//button[normalize-space()='Create']")
    browser.wait_text("made-in-the-ui")
    with browser.gate.session() as session:
        found = session.get(
            f"{browser.gate.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=made-in-the-ui",
            timeout=20,
        )
    assert found.status_code == 200, found.text
    # MLflow's UI asks for the first, which only its basic-auth app has, and by the second whether a name is free;
    # the assistant is closed.
    expected = ("users/current", "experiments/get-by-name", "mlflow/assistant/")
    assert not [message for message in failed_requests(browser) if not any(part in message for part in expected)]


def test_signing_out_ends_the_session(browser: Browser) -> None:
    browser.sign_in("bob")
    browser.wait_text("Experiments")
    browser.driver.get(f"{browser.gate.url}/oauth2/sign_out?rd=%2F")
    # The provider is asked to end its own session, and nobody is signed in again by that.
    browser.wait(By.XPATH, "//form[contains(@action, 'end_session')]")
    assert browser.driver.current_url.startswith(f"{browser.gate.provider.issuer}/oauth2/end_session?")
    browser.driver.get(browser.gate.url)
    browser.wait(By.NAME, "sub")


def test_somebody_not_allowed_gets_a_page_that_says_why(browser: Browser) -> None:
    browser.sign_in("mallory@elsewhere.test")
    browser.wait_text("You can’t go in with this account")
    assert "sign in with another account" in browser.text()
    assert "Experiments" not in browser.text()


def test_signing_in_leads_back_to_the_page_that_was_asked_for(browser: Browser) -> None:
    browser.sign_in("carol", "/?from=mail#/models")
    browser.wait_text("Model")
    assert "from=mail" in browser.driver.current_url


def test_the_session_cookie_is_out_of_reach_of_scripts_and_of_other_sites(browser: Browser) -> None:
    browser.sign_in("alice")
    browser.wait_text("Experiments")
    cookies = {cookie["name"]: cookie for cookie in browser.driver.get_cookies()}
    session = cookies["_gatehouse"]
    assert session["httpOnly"]
    assert session["sameSite"] == "Lax"
    assert session["path"] == "/"
    assert "_gatehouse" not in browser.driver.execute_script("return document.cookie")
