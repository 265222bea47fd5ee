"""A real headless Chromium, and the clicks that people make at the gate."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    presence_of_element_located,
)
from selenium.webdriver.support.wait import WebDriverWait

from tests.support import Gate, missing

WAIT_S = 40
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1400,900", "--lang=en",
)  # fmt: skip


class Browser:
    """Chromium at a gate."""

    def __init__(self, driver: Chrome, gate: Gate) -> None:
        self.driver = driver
        self.gate = gate

    def until(self, condition: Callable[[Chrome], Any], what: str) -> Any:
        """Wait until a condition holds; fail with where the browser is, what it shows and the gate's log."""
        wait = WebDriverWait(
            self.driver, WAIT_S, ignored_exceptions=[NoSuchElementException, StaleElementReferenceException]
        )
        try:
            return wait.until(condition)
        except TimeoutException:
            raise AssertionError(self.describe(what)) from None

    def wait(self, by: str, what: str) -> None:
        """Wait until something is on the page."""
        self.until(presence_of_element_located((by, what)), what)

    def click(self, by: str, what: str) -> None:
        """Click on something once it can be clicked."""
        self.until(element_to_be_clickable((by, what)), what).click()

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def wait_text(self, words: str) -> None:
        """Wait until the page shows some words."""
        self.until(lambda _: words in self.text(), words)

    def describe(self, what: str) -> str:
        """Return what a failed wait prints: where the browser is, what it shows and what its console says."""
        console = self.console()
        return f"waited for {what} at {self.driver.current_url}\n{self.text()}\n{console}\n{self.gate.log()[-4000:]}"

    def console(self) -> list[str]:
        """Return what the page wrote on the console since the last call."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def sign_in(self, person: str, path: str = "/") -> None:
        """Open a page of the gate and choose a local person at the provider: one click, or a typed address."""
        self.driver.get(self.gate.url + path)
        if "@" not in person:
            self.click(By.XPATH, f"//button[normalize-space()='{person}@example.com']")
        else:
            self.wait(By.NAME, "sub")
            self.driver.find_element(By.NAME, "sub").send_keys(person)
            self.click(By.XPATH, "//button[normalize-space()='Authorize']")


@contextmanager
def chromium(gate: Gate) -> Iterator[Browser]:
    """Start Chromium with a fresh profile."""
    driver_path = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if not driver_path or not binary:
        missing("Chromium with its driver", "apt-get install chromium chromium-driver")
    profile = Path(tempfile.mkdtemp(prefix="chromium"))
    options = ChromeOptions()
    options.binary_location = str(binary)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(driver_path))
    try:
        yield Browser(driver, gate)
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)
