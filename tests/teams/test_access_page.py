"""The access page: who is told what, by which line; that nothing crosses between workspaces; that words stay words."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from gatehouse.audit.refusals import EACH, MOST, Refusals
from gatehouse.identities.issuers import parse as parse_issuers
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route
from gatehouse.policy.identity import Identity
from gatehouse.policy.reader import parse
from gatehouse.request.context import Context
from gatehouse.start.teams import _make
from tests.browser import Browser, chromium
from tests.support import Gate, free_port, wait_for
from tests.teams.conftest import HEADER, POLICY, Member

PAGE = "/gatehouse/access"
LINES = POLICY.splitlines()
#: What may be in the page; a script, an image or a handler may not.
TAGS = re.compile(
    "a|bdi|body|br|button|caption|code|div|footer|form|h[123]|head|html|input|label|li|main|meta|nav|p|section|strong|"
    "style|table|tbody|td|th|thead|time|title|tr|ul"
)


class Page(HTMLParser):
    """A page, read as a browser's tree would be: its elements, its attributes, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def told(who: Member, **parameters: str) -> dict[str, Any]:
    answer = who.call("GET", PAGE, params=parameters)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def seen(who: Member, **parameters: str) -> tuple[requests.Response, Page]:
    answer = who.call("GET", PAGE, params=parameters, headers={"Accept": "text/html"})
    return answer, Page(answer.text)


def places(report: dict[str, Any]) -> list[str]:
    return [place["workspace"] for place in report.get("places", [])]


def test_an_admin_of_the_server_sees_every_rule_with_its_line(teams: Gate) -> None:
    report = told(Member(teams, "alice", None))
    assert report["administers"] == "server"
    assert places(report)[:3] == ["default", "fraud", "vision"]
    assert (report["policy"]["file"], report["policy"]["problem"]) == (teams.environment["ACCESS_POLICY"], None)
    fraud = report["places"][1]
    assert fraud["there"] is True
    assert [(each["role"], each["rule"]) for each in fraud["rules"]] == [
        ("admin", "user:fiona@example.com"), ("editor", "group:fraud@example.com"), ("editor", "user:fred@example.com"),
        ("viewer", "user:fay@example.com"), ("none", "default: none"),
    ]  # fmt: skip
    for place in report["places"][:3]:
        for rule in place["rules"]:
            if rule["line"] is not None:
                assert rule["rule"] in LINES[rule["line"] - 1]


def test_what_somebody_could_do_is_answered_with_the_rule_and_what_a_group_would_add(teams: Gate) -> None:
    alice = Member(teams, "alice", None)
    asked = told(alice, user="Fay@Example.com")["question"]
    assert asked["user"] == "Fay@Example.com"
    assert [(row["workspace"], row["role"], row["rule"]) for row in asked["roles"]] == [
        ("default", "none", "default: none"), ("fraud", "viewer", "user:fay@example.com"), ("vision", "none", "default: none"),
    ]  # fmt: skip
    # Whom a rule names is lifted by no group; anybody else is.
    assert [row["lifted_by"] for row in asked["roles"]] == [[], [], []]
    stranger = told(alice, user="new@example.com")["question"]["roles"][1]
    assert [each["rule"] for each in stranger["lifted_by"]] == ["group:fraud@example.com"]
    lifted = told(alice, user="new@example.com", groups="other, fraud@example.com")["question"]["roles"][1]
    assert (lifted["role"], lifted["rule"]) == ("editor", "group:fraud@example.com")
    # The page says what the gate does.
    for name, workspace in (("fay", "fraud"), ("fred", "fraud"), ("bob", "default"), ("bob", "vision")):
        rows = told(alice, user=f"{name}@example.com")["question"]["roles"]
        role = Member(teams, name, workspace).call("GET", "/gatehouse/whoami").json()["role"]
        assert [row["role"] for row in rows if row["workspace"] == workspace] == [role]
    everywhere = told(alice, user="alice@example.com")["question"]["roles"]
    assert {(row["role"], row["through_server"]) for row in everywhere[1:]} == {("admin", True)}
    assert everywhere[1]["rule"] == "user:alice@example.com"


@pytest.mark.parametrize(
    "parameters",
    [
        {"user": "nobody"}, {"user": "a@b c"}, {"user": "x" * 400 + "@example.com"}, {"user": ["a@b.c", "d@e.f"]},
        {"user": "a@b.c", "groups": "g" * 400}, {"format": "xml"}, {"user": "machine:github"},
    ],
)  # fmt: skip
def test_a_question_that_can_not_be_read_is_told_beside_the_field(teams: Gate, parameters: dict[str, Any]) -> None:
    alice = Member(teams, "alice", None)
    answer = alice.call("GET", PAGE, params=parameters)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    answer, page = seen(alice, **{name: value for name, value in parameters.items() if name != "format"})
    if "format" not in parameters:
        assert answer.status_code == 400
        field = next(each for each in page.all("input") if each["id"] == "user")
        assert field["aria-describedby"] in {each.get("id") for each in page.all("p")}


def test_an_admin_of_a_workspace_is_told_of_this_one_alone(teams: Gate) -> None:
    vince = Member(teams, "vince", "vision")
    Member(teams, "fay", "fraud").post("experiments/create", name="refused-in-fraud")
    Member(teams, "vera", "vision").post("experiments/create", name="refused-in-vision")
    # Whoever comes to this workspace's door is its business; what they may elsewhere isn't, whatever they ask for.
    Member(teams, "fred", "vision").get("experiments/search", max_results="1")
    Member(teams, "fred", "vision").call("GET", "/gatehouse/status")
    Member(teams, "bob", None).post("experiments/create", name="refused-in-default")
    for who in (vince, Member(teams, "vince", None), Member(teams, "vince", "fraud")):
        report = told(who)
        assert report["administers"] == "workspaces"
        assert places(report) == ["vision"]
        assert "policy" not in report
        entries = report["refusals"]["entries"]
        assert {each["workspace"] for each in entries} == {"vision"}
        assert {"vera@example.com", "fred@example.com"} <= {each["identity"] for each in entries}
        assert not [each for each in entries if "status" in each["what"]]
        for text in (str(report), seen(who)[0].text):
            for foreign in ("fraud", "fay@", "fiona@", "bob@", "policy.yaml"):
                assert foreign not in text, foreign
    asked = told(vince, user="fiona@example.com")["question"]["roles"]
    assert [(row["workspace"], row["role"]) for row in asked] == [("vision", "none")]
    # Who administers the server may in here too; by which of its rules is the server's.
    alice = told(vince, user="alice@example.com")["question"]["roles"]
    assert [(row["role"], row["rule"], row["line"]) for row in alice] == [("admin", None, None)]
    assert "an admin of the server" in seen(vince, user="alice@example.com")[1].text
    everything = told(Member(teams, "alice", None))["refusals"]["entries"]
    assert {"default", "fraud", "vision"} <= {each["workspace"] for each in everything}


@pytest.mark.parametrize(
    ("name", "groups", "roles"),
    [
        ("fred", [], [("default", "none", "default: none"), ("fraud", "editor", "user:fred@example.com")]),
        ("fay", [], [("default", "none", "default: none"), ("fraud", "viewer", "user:fay@example.com")]),
        ("bob", [], [("default", "viewer", "user:bob@example.com")]),
        ("gus", ["fraud@example.com"], [("default", "none", "default: none"), ("fraud", "editor", "group:fraud@example.com")]),
        ("stranger", [], [("default", "none", "default: none")]),
    ],
)  # fmt: skip
def test_everybody_else_sees_their_own_roles_and_nobody_elses(
    teams: Gate, name: str, groups: list[str], roles: list[tuple[str, str, str]]
) -> None:
    who = Member(teams, name, None, *groups)
    report = told(who)
    assert [(row["workspace"], row["role"], row["rule"]) for row in report["you"]["roles"]] == roles
    assert not {"places", "refusals", "policy", "question", "administers"} & set(report)
    refused = who.call("GET", PAGE, params={"user": "alice@example.com"})
    assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED")
    text = seen(who)[0].text
    for foreign in ("alice@", "vision", "vince@", "<form"):
        assert foreign not in text
    assert who.call("HEAD", PAGE).status_code == 200
    assert who.call("POST", PAGE).status_code == 404


def test_words_of_others_stay_words(teams: Gate) -> None:
    email, group = '"<img/src=x/onerror=alert(1)>"@example.com', "<script>alert(2)</script>"
    teams.provider.claims("mallory", email=email, email_verified=True, groups=[group])
    mallory = Member(teams, "mallory", "fraud")
    mallory.session.headers["Authorization"] = f"Bearer {teams.provider.token_of('mallory')}"
    teams.provider.claims("mallory", email=email, email_verified=True, groups=[group])
    refused = mallory.get("experiments/search", max_results="1")
    assert refused.status_code == 404
    del mallory.session.headers[HEADER]
    attacks = {"user": '"><svg/onload=alert(3)>@example.com', "groups": "'><b>,</textarea>"}
    pages = [
        seen(mallory), seen(Member(teams, "fiona", None)), seen(Member(teams, "fiona", None), **attacks),
        seen(Member(teams, "alice", None), user="<script>alert(4)</script>"),
    ]  # fmt: skip
    assert [answer.status_code for answer, _ in pages] == [200, 200, 200, 400]
    for answer, page in pages:
        assert not [tag for tag, _ in page.elements if not TAGS.fullmatch(tag)]
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert all(email in page.text for _, page in pages[:2])
    assert group in pages[0][1].text
    assert "svg/onload=alert(3)" in pages[2][1].text


def test_the_page_is_strict_about_what_it_may_load_and_can_be_read_aloud(teams: Gate) -> None:
    alice = Member(teams, "alice", None)
    answer, page = seen(alice, user="dana@example.com")
    policy = answer.headers["content-security-policy"]
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption")) >= 5
    assert {attributes.get("scope") for attributes in page.all("th")} == {"col", "row"}
    assert {attributes["for"] for attributes in page.all("label")} == {each["id"] for each in page.all("input")}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(each["href"] or "")[1:] for each in page.all("a") if (each["href"] or "").startswith("#")}
    assert targets <= set(ids)
    assert any((target or "").startswith("line-") for target in targets)
    assert "can't be listed" in page.text
    forced = alice.call("GET", PAGE, params={"format": "json"}, headers={"Accept": "text/html"})
    assert forced.headers["content-type"] == "application/json"
    assert "<!doctype html>" in alice.call("GET", PAGE, params={"format": "html"}).text


@pytest.fixture
def browser(teams: Gate) -> Iterator[Browser]:
    with chromium(teams) as part:
        yield part


def test_the_form_works_by_the_keyboard_alone_and_the_browser_complains_of_nothing(browser: Browser) -> None:
    browser.sign_in("alice")
    browser.wait_text("alice@example.com")
    browser.driver.get(browser.gate.url + PAGE)
    browser.wait_text("What could somebody do?")
    browser.console()
    for _ in range(40):
        focused = browser.driver.switch_to.active_element
        if focused.get_attribute("id") == "user":
            break
        focused.send_keys(Keys.TAB)
    browser.driver.switch_to.active_element.send_keys("fay@example.com", Keys.TAB, Keys.SHIFT + Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.wait_text("What fay@example.com could do, with no group")
    row = browser.driver.find_element(By.XPATH, "//*[@role='status']//tr[contains(., 'user:fay@example.com')]")
    row.find_element(By.TAG_NAME, "a").send_keys(Keys.ENTER)
    browser.until(lambda driver: "#line-" in driver.current_url, "the rule's row")
    target = browser.driver.find_element(By.CSS_SELECTOR, ":target")
    assert target.text.startswith("user:fay@example.com viewer line ")
    # The one style is allowed by its hash, and in force.
    assert target.value_of_css_property("outline-style") == "solid"
    assert browser.console() == []


@pytest.fixture
def new_team(teams: Gate) -> Iterator[str]:
    """A workspace that the policy declares while the server runs, and that is gone afterwards."""
    policy, name = Path(teams.environment["ACCESS_POLICY"]), "new-team"
    alice = Member(teams, "alice", None)
    policy.write_text(POLICY + f"  {name}: {{editor: [user:nora@example.com]}}\n")
    try:
        yield name
    finally:
        policy.write_text(POLICY)
        wait_for(lambda: len(told(alice)["places"]) < 4 or not told(alice)["places"][-1]["declared"], "the old policy")
        alice.call("DELETE", f"/api/3.0/mlflow/workspaces/{name}")
        wait_for(lambda: places(told(alice)) == ["default", "fraud", "vision"], "the end of the workspace")


def test_a_workspace_that_a_changed_policy_declares_is_made_at_once(teams: Gate, new_team: str) -> None:
    nora = Member(teams, "nora", new_team)
    wait_for(
        lambda: nora.get("experiments/search", max_results="1").status_code == 200, "the new workspace", logs=teams.log
    )
    assert f"made the workspace {new_team}, which the changed access policy declares" in teams.log()
    assert [row["workspace"] for row in told(nora)["you"]["roles"]] == ["default", new_team]


def test_one_that_is_declared_and_not_there_is_told(teams: Gate, new_team: str) -> None:
    alice = Member(teams, "alice", None)

    def there() -> Any:
        return {place["workspace"]: place["there"] for place in told(alice)["places"]}.get(new_team)

    wait_for(there, "the new workspace", logs=teams.log)
    assert alice.call("DELETE", f"/api/3.0/mlflow/workspaces/{new_team}").status_code in {200, 204}
    wait_for(lambda: there() is False, "its end", logs=teams.log)
    assert "gatehouse workspaces apply" in seen(alice)[1].text


def test_what_can_not_be_made_is_told_with_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    _make(f"postgresql://gatehouse:secret@127.0.0.1:{free_port()}/none", parse(POLICY.encode(), "development"))
    said = capsys.readouterr().err
    assert "declares workspaces that can't be looked for or made" in said
    assert "fix: mend the database's answer, then `gatehouse workspaces apply`" in said
    assert "secret" not in said


def test_a_changed_policy_that_is_not_in_force_is_told(teams: Gate) -> None:
    policy, alice = Path(teams.environment["ACCESS_POLICY"]), Member(teams, "alice", None)
    policy.write_text(POLICY.replace("viewer: [user:bob", "viewers: [user:bob"))
    try:
        problem = wait_for(lambda: told(alice)["policy"]["problem"], "the problem", logs=teams.log)
        assert "'viewers'" in problem
        _, page = seen(alice)
        assert "The changed file isn't in force" in page.text
        assert {"role": "alert"} in page.all("p")
        # An admin of a workspace isn't told what stands in the rest of the file.
        assert "viewers" not in seen(Member(teams, "fiona", None))[0].text
    finally:
        policy.write_text(POLICY)
        wait_for(lambda: not told(alice)["policy"]["problem"], "the end of the problem", logs=teams.log)


def refused(who: str, reason: str, workspace: str = "fraud") -> Context:
    context = Context({"type": "http", "method": "GET", "path": "/x", "headers": []}, None)  # type: ignore[arg-type]
    context.identity = Identity(who, "subject")
    context.route = Route(f"op_{reason}", Access.READ, {})
    context.workspace, context.refusal = workspace, reason
    return context


def test_whoever_is_refused_often_pushes_nobody_else_out() -> None:
    async def run() -> None:
        refusals = Refusals()
        refusals.note(refused("bob@example.com", "once"), 403)
        for number in range(3 * MOST):
            refusals.note(refused("mallory@example.com", str(number)), 403)
            refusals.note(refused("mallory@example.com", "again"), 404)
        found = await refusals.recent()
        assert [each.identity for each in found].count("mallory@example.com") == EACH
        assert found[-1].identity == "bob@example.com"
        assert {each.reason: each.count for each in found}["again"] == 3 * MOST
        for number in range(2 * MOST):
            refusals.note(refused(f"somebody-{number}@example.com", "x" * 5000), 403)
        found = await refusals.recent()
        assert len(found) == MOST
        assert max(len(each.reason) for each in found) < 500

    asyncio.run(run())


def test_workers_see_each_others_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        one, other = Refusals(tmp_path), Refusals(tmp_path)
        monkeypatch.setattr("gatehouse.audit.refusals.INTERVAL_S", 0)
        monkeypatch.setattr(one, "_name", lambda: "refusals-1.json")
        monkeypatch.setattr(other, "_name", lambda: "refusals-2.json")
        one.note(refused("bob@example.com", "here"), 403)
        one.note(refused("bob@example.com", "both"), 403)
        other.note(refused("bob@example.com", "both"), 403)
        published = [each._publisher for each in (one, other)]
        await asyncio.gather(*(task for task in published if task))
        for each in (one, other):
            assert {found.reason: found.count for found in await each.recent()} == {"here": 1, "both": 2}
        (tmp_path / "refusals-3.json").write_text("[{")
        assert len(await one.recent()) == 2

    asyncio.run(run())


def test_the_rules_on_machines_have_their_lines() -> None:
    text = b"""default: none
roles:
  viewer:
    - machine:https://token.actions.githubusercontent.com#repo:acme/train:ref:refs/heads/main
    - machine:github#repo:acme/*
    - kubernetes:fraud/trainer
"""
    issuers = parse_issuers(
        "github=https://token.actions.githubusercontent.com, kubernetes=https://cluster.example.com"
    )
    policy = parse(text, "development", issuers=issuers)
    rules = {each.rule: each.line for each in policy.listed()}
    assert rules == {
        "machine:github#repo:acme/train:ref:refs/heads/main": 4, "machine:github#repo:acme/*": 5,
        "kubernetes:fraud/trainer": 6, "default: none": 1,
    }  # fmt: skip
    for issuer, subject, line in (
        ("github", "repo:acme/train:ref:refs/heads/main", 4), ("github", "repo:acme/other:x", 5), ("github", "repo:b/c", None),
        ("kubernetes", "system:serviceaccount:fraud:trainer", 6), ("gitlab", "repo:acme/train", None),
    ):  # fmt: skip
        assert policy.reason_in(Identity("a machine", subject, issuer=issuer), "default").line == line
