"""In a real Chromium: each person sees who they are, what they may do, a way out, and the way back in."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.access.conftest import Client, audit_lines
from tests.browser import WAIT_S, Browser, chromium
from tests.support import Gate, wait_for

PAGES = ("experiments", "models", "prompts", "settings", "gateway", "mcp-registry")


@pytest.fixture
def browser(gate: Gate) -> Iterator[Browser]:
    with chromium(gate) as part:
        yield part


def wait_until(browser: Browser, condition: str, what: str) -> None:
    """Wait until a JavaScript expression is true."""
    WebDriverWait(browser.driver, WAIT_S).until(
        lambda driver: driver.execute_script(f"return {condition}"), browser.describe(what)
    )


def failures(browser: Browser) -> list[str]:
    """Return the requests to the gate that the browser's console reports as failed."""
    return [
        message for message in browser.console() if "Failed to load resource" in message and browser.gate.url in message
    ]


def open_menu(browser: Browser, person: str) -> None:
    browser.click(By.CSS_SELECTOR, f"[aria-label='Account menu for {person}@example.com']")


@pytest.mark.parametrize(("person", "role"), [("alice", "admin"), ("bob", "editor"), ("carol", "viewer")])
def test_every_page_works_and_shows_who_is_signed_in(browser: Browser, bob: Client, person: str, role: str) -> None:
    run = bob.run()
    browser.sign_in(person)
    browser.wait_text(f"{person}@example.com")
    for page in (*PAGES, f"experiments/0/runs/{run}"):
        browser.driver.get(f"{browser.gate.url}/#/{page}")
        browser.wait_text(f"{person}@example.com")
    assert failures(browser) == []
    assert "MLflow Assistant" not in browser.text()

    open_menu(browser, person)
    browser.click(By.XPATH, "//*[@role='menuitem'][normalize-space()='Account']")
    browser.wait_text(f"Logged in as {person}@example.com")
    browser.wait(By.XPATH, f"//*[@role='cell' or self::td or self::div][normalize-space()='{role}']")
    assert "Change password" not in browser.text()
    assert failures(browser) == []


def test_logout_in_the_menu_ends_the_session(browser: Browser) -> None:
    browser.sign_in("carol")
    open_menu(browser, "carol")
    browser.click(By.XPATH, "//*[@role='menuitem'][normalize-space()='Logout']")
    # The provider is asked to end its own session too.
    browser.wait(By.XPATH, "//form[contains(@action, 'end_session')]")
    assert browser.driver.current_url.startswith(f"{browser.gate.provider.issuer}/oauth2/end_session?")
    browser.driver.get(browser.gate.url)
    browser.wait(By.NAME, "sub")
    assert not [cookie for cookie in browser.driver.get_cookies() if cookie["name"] == "_gatehouse"]


def test_a_viewers_refused_click_says_why(browser: Browser, gate: Gate) -> None:
    browser.sign_in("carol", "/#/experiments")
    browser.wait_text("carol@example.com")
    browser.driver.get(f"{browser.gate.url}/#/experiments")
    browser.click(By.XPATH, "//button[@data-testid='create-experiment-button']|//button[normalize-space()='Create']")
    field = "//input[contains(@placeholder, 'experiment name')]"
    browser.wait(By.XPATH, field)
    browser.driver.find_element(By.XPATH, field).send_keys("carols-own")
    browser.click(By.XPATH, "//div[@role='dialog']//button[normalize-space()='Create']")
    browser.wait_text("carol@example.com is a viewer here; 'create experiment' needs the role editor")
    browser.wait_text("Ask alice@example.com")
    refused = [line["audit"] for line in audit_lines(gate) if line["audit"]["objects"].get("name") == "carols-own"]
    assert [line["result"] for line in refused] == ["refused"]


def test_whoami_is_a_page_with_a_way_out(browser: Browser) -> None:
    browser.sign_in("carol")
    browser.wait_text("carol@example.com")
    browser.driver.get(f"{browser.gate.url}/gatehouse/whoami")
    browser.wait_text("Who am I")
    assert "carol@example.com" in browser.text()
    assert "viewer" in browser.text()
    browser.click(By.LINK_TEXT, "Sign out")
    # On to the provider, which is asked to end its own session too.
    browser.wait(By.XPATH, "//form[contains(@action, 'end_session')]")


def end_session(browser: Browser) -> None:
    browser.driver.delete_cookie("_gatehouse")


@pytest.mark.parametrize("page", ["models?searchInput=abc", "settings/general", "prompts"])
def test_a_session_that_ends_leads_to_sign_in_and_back_to_the_very_page(browser: Browser, page: str) -> None:
    browser.sign_in("carol")
    browser.wait_text("carol@example.com")
    browser.driver.get(f"{browser.gate.url}/?from=mail#/experiments")
    browser.wait_text("carol@example.com")
    end_session(browser)
    browser.driver.execute_script(f"location.hash = '/{page}'")
    browser.click(By.XPATH, "//button[normalize-space()='carol@example.com']")
    browser.wait_text("Docs")
    assert browser.driver.current_url == f"{browser.gate.url}/?from=mail#/{page}"


def test_what_was_typed_when_the_session_ended_is_kept_and_never_sent_twice(
    browser: Browser, bob: Client, gate: Gate
) -> None:
    browser.sign_in("bob")
    browser.wait_text("bob@example.com")
    browser.driver.get(f"{browser.gate.url}/#/experiments")
    browser.click(By.XPATH, "//button[@data-testid='create-experiment-button']|//button[normalize-space()='Create']")
    field = "//input[contains(@placeholder, 'experiment name')]"
    browser.wait(By.XPATH, field)
    browser.driver.find_element(By.XPATH, field).send_keys("typed-in-vain")
    end_session(browser)
    browser.click(By.XPATH, "//div[@role='dialog']//button[normalize-space()='Create']")
    browser.wait(By.ID, "gatehouse-session-ended")
    assert browser.driver.find_element(By.XPATH, field).get_attribute("value") == "typed-in-vain"
    browser.driver.execute_script("document.querySelector('#gatehouse-session-ended button').click()")
    browser.click(By.XPATH, "//button[normalize-space()='bob@example.com']")
    browser.wait_text("bob@example.com")
    wait_for(lambda: browser.driver.current_url.endswith("/#/experiments"), "the page", logs=browser.text)
    found = bob.call("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=typed-in-vain")
    assert found.status_code == 404
    assert "typed-in-vain" not in json.dumps(audit_lines(gate))


def test_signing_in_that_does_not_help_is_no_loop(browser: Browser) -> None:
    browser.sign_in("carol")
    browser.wait_text("carol@example.com")
    browser.driver.execute_script("sessionStorage.setItem('gatehouse-sign-in', String(Date.now()))")
    end_session(browser)
    browser.driver.execute_script("fetch('ajax-api/2.0/mlflow/experiments/search?max_results=1')")
    wait_until(browser, "document.getElementById('gatehouse-session-ended') !== null", "the notice")
    assert browser.driver.current_url.startswith(browser.gate.url)
