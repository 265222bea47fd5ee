"""MLflow's UI still shows artifacts, though nothing stored can be opened as a page of this site."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By

from tests.artifacts.conftest import ARTIFACTS, Stored
from tests.browser import Browser, chromium

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"><rect width="7" height="5"/></svg>'
HTML = b"<h1>shown in its frame</h1><script>parent.document.title = 'owned'</script>"


@pytest.fixture
def browser(local_store: Stored) -> Iterator[Browser]:
    with chromium(local_store.gate) as part:
        yield part


def test_html_and_images_are_shown_and_cannot_act_as_the_site(local_store: Stored, browser: Browser) -> None:
    api = f"{local_store.gate.url}/api/2.0/mlflow"
    made = local_store.session.post(f"{api}/runs/create", json={"experiment_id": "0"}, timeout=20).json()
    run = made["run"]["info"]["run_id"]
    for name, data in {"page.html": HTML, "dot.png": PNG, "box.svg": SVG}.items():
        url = f"{local_store.gate.url}{ARTIFACTS}/0/{run}/artifacts/{name}"
        assert local_store.session.put(url, data=data, timeout=20).status_code == 200
    page = f"{local_store.gate.url}/#/experiments/0/runs/{run}/artifacts"
    browser.sign_in("alice")
    browser.wait_text("Experiments")
    driver = browser.driver

    def show(name: str) -> None:
        driver.get(f"{page}/{name}")
        driver.refresh()  # another fragment alone selects no other artifact

    def is_shown(width: int) -> bool:
        return bool(driver.execute_script(f"return [...document.images].some(image => image.naturalWidth === {width})"))

    for name, width in (("dot.png", 1), ("box.svg", 7)):
        show(name)
        browser.until(lambda _, width=width: is_shown(width), name)  # type: ignore[misc]

    show("page.html")
    browser.wait(By.TAG_NAME, "iframe")

    def shown(_: object) -> bool:
        frame = driver.find_element(By.TAG_NAME, "iframe")
        driver.switch_to.frame(frame)
        try:
            return "shown in its frame" in driver.find_element(By.TAG_NAME, "body").text
        finally:
            driver.switch_to.default_content()

    browser.until(shown, "the preview of the HTML")
    assert driver.title != "owned"
