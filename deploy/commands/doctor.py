"""`doctor`: what stands in the way around the deployment itself, each finding with its fix."""

from __future__ import annotations

import argparse
import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deploy import denied, smoke
from deploy.cloud.errors import CloudError
from deploy.cloud.rights import ROLES
from deploy.commands.status import rights
from deploy.config import GCLOUD_AUDIENCE, Config
from deploy.observe import State
from deploy.resources import project
from deploy.session import Session
from deploy.smoke import SmokeError


@dataclass(frozen=True)
class Finding:
    """One check: `good` is None where it could not be made."""

    what: str
    good: bool | None
    told: str
    fix: str = ""


@dataclass(frozen=True)
class Constraint:
    """An organisation's policy that this deployment can run into.

    `forbids` says of the effective policy's rules whether they forbid what the environment asks for; `ask` is what that
    is.
    """

    name: str
    ask: Callable[[Config], str]
    forbids: Callable[[Config, list[dict[str, Any]]], bool]
    fix: str


def _enforced(config: Config, rules: list[dict[str, Any]]) -> bool:
    del config
    return any(rule.get("enforce") for rule in rules)


def _allows(rules: list[dict[str, Any]], value: str, *groups: str) -> bool:
    """Return whether a list policy allows a value:

    `values` of every rule together, `denyAll` and denied values winning.
    """
    if any(rule.get("denyAll") for rule in rules):
        return False
    names = {value, *groups}
    lists = [rule["values"] for rule in rules if rule.get("values")]
    if any(names & {v.removeprefix("is:") for v in item.get("deniedValues", [])} for item in lists):
        return False
    allowed = {v.removeprefix("is:") for item in lists for v in item.get("allowedValues", [])}
    return not allowed or bool(names & allowed)


def _location_groups(region: str) -> tuple[str, ...]:
    """Return the value groups of gcp.resourceLocations that hold a region, as far as its name tells."""
    continent = {"europe": "eu", "us": "us", "asia": "asia", "northamerica": "us"}.get(region.split("-")[0], "")
    return (f"in:{region}-locations", *((f"in:{continent}-locations",) if continent else ()))


CONSTRAINTS = (
    Constraint(
        "run.managed.requireInvokerIam",
        lambda config: "services without Cloud Run's own IAM check",
        _enforced,
        "ask for an exception for this project: the proxy is the gate, and that check strips the tokens' signatures",
    ),
    Constraint(
        "run.allowedIngress",
        lambda config: f"ingress {config.service.ingress}",
        lambda config, rules: not _allows(rules, config.service.ingress),
        "set service/ingress to what is allowed (internal-and-cloud-load-balancing, mostly) and public_url to a load "
        "balancer's address;"
        " docs/deploy.md has the recipe",
    ),
    Constraint(
        "run.allowedVPCEgress",
        lambda config: f"egress {config.service.egress if config.network else 'without a network'}",
        lambda config, rules: not _allows(rules, config.service.egress if config.network else "none"),
        "set service/network, service/subnet and service/egress to what is allowed",
    ),
    Constraint(
        "sql.restrictPublicIp",
        lambda config: "a private database" if config.private_network else "a database with a public address",
        lambda config, rules: not config.private_network and _enforced(config, rules),
        "set sql/network and sql/subnet in the environment's file",
    ),
    Constraint(
        "gcp.resourceLocations",
        lambda config: f"resources in {config.region}",
        lambda config, rules: not _allows(rules, config.region, *_location_groups(config.region)),
        "set region to one that is allowed; everything that the tool makes is in it",
    ),
    Constraint(
        "gcp.restrictNonCmekServices",
        lambda config: "resources without a key of your own" if not config.settings.kms_key else "your key",
        lambda config, rules: not config.settings.kms_key and not _allows(rules, "sqladmin.googleapis.com"),
        "set kms_key to a key in the region",
    ),
    Constraint(
        "iam.allowedPolicyMemberDomains",
        lambda config: "grants to this project's own service accounts",
        # Service accounts of the organisation's own projects are members of its domain; the tool grants to no one else.
        lambda config, rules: any(rule.get("denyAll") for rule in rules),
        "allow your own organisation's customer id: the tool grants rights to its own service accounts alone, and to "
        "no allUsers",
    ),
    Constraint(
        "iam.disableServiceAccountKeyCreation",
        lambda config: "a deployment without any key",
        lambda config, rules: False,
        "",
    ),
)


def constraint(session: Session, one: Constraint) -> Finding:
    """Compare one effective policy with what the environment asks for. Raises CloudError."""
    config = session.config
    url = f"https://orgpolicy.googleapis.com/v2/projects/{config.project}/policies/{one.name}:getEffectivePolicy"
    rules = session.google.get(url).get("spec", {}).get("rules", [])
    forbidden = one.forbids(config, rules)
    told = f"{'forbids' if forbidden else 'allows'} {one.ask(config)}"
    return Finding(f"policy {one.name}", not forbidden, told, one.fix if forbidden else "")


def examine(session: Session) -> list[Finding]:
    """Make every check and return the findings."""
    config, google = session.config, session.google
    findings: list[Finding] = []

    def add(what: str, check: Callable[[], Finding]) -> None:
        try:
            findings.append(check())
        except (CloudError, SmokeError) as error:
            told = denied.explain(config, google, error) if isinstance(error, CloudError) else str(error)
            first, _, rest = told.partition("\n")
            findings.append(Finding(what, None, first, rest))

    add("billing", lambda: _billing(session))
    for one in CONSTRAINTS:
        add(f"policy {one.name}", lambda one=one: constraint(session, one))  # type: ignore[misc]
    add("your rights", lambda: _your_rights(session))
    try:
        state = session.observe()
    except CloudError as error:
        return [*findings, Finding("project", False, error.message, denied.explain(config, google, error))]
    missing = [api for api in project.apis(config) if api not in state.project.apis]
    told = f"not enabled: {', '.join(missing)}" if missing else "all enabled"
    findings.append(Finding("APIs", not missing, told, "python -m deploy apply enables them" if missing else ""))
    used, allowed = config.connection_budget()
    told = f"at most {used} of the {allowed} that {config.sql.tier} allows"
    findings.append(Finding("connections", used <= allowed, told))
    if state.account is not None:
        findings.append(_rights(config, state))
    if state.serving and config.service.ingress == "all":
        url = config.public_url(state.number)
        add("redirect URI", lambda: _redirect(session, url))
        audiences = state.served.env.get("OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES", "")
        add("audience", lambda: _audience(session, url, audiences))
    return findings


def _billing(session: Session) -> Finding:
    project_id = session.config.project
    url = f"https://cloudbilling.googleapis.com/v1/projects/{project_id}/billingInfo"
    good = bool(session.google.get(url).get("billingEnabled"))
    link = f"https://console.cloud.google.com/billing/linkedaccount?project={project_id}"
    told = "a billing account is linked" if good else "no billing account is linked"
    return Finding("billing", good, told, "" if good else link)


def _your_rights(session: Session) -> Finding:
    """Ask Google which of the rights that the tool uses the caller has on the project:

    a right on one resource alone is not seen.
    """
    missing = session.google.lacking(session.config.project, list(ROLES))
    if not missing:
        return Finding("your rights", True, "all that the tool uses, on the whole project")
    told = f"you lack {', '.join(missing[:6])}{' …' if len(missing) > 6 else ''} on the whole project"
    fix = (
        "as long as no command says so, you need none of them (a right on one resource is not seen here): "
        "docs/deploy.md has the table"
    )
    return Finding("your rights", None, told, fix)


def _rights(config: Config, state: State) -> Finding:
    wrong = rights(config, state)
    fix = "python -m deploy apply adds what is missing" if wrong else ""
    return Finding("rights", not wrong, "; ".join(wrong) or "as they must be", fix)


def _redirect(session: Session, url: str) -> Finding:
    """Ask the identity provider what it thinks of our redirect URI."""
    del session
    what = "redirect URI"
    _, fields, _ = smoke.ask(f"{url}/", os.environ, "Accept: text/html", "Sec-Fetch-Mode: navigate")
    location = fields.get("location", "")
    back = parse_qs(urlsplit(location).query).get("redirect_uri", [""])[0]
    if not back.startswith(f"{url}/"):
        told = f"people would come back to {back or '(nowhere)'}"
        return Finding(what, False, told, "PUBLIC_URL is wrong: apply sets it")
    status, answer, body = smoke.ask(location, os.environ, "Accept: text/html")
    refused = (
        "redirect_uri_mismatch" in body + answer.get("location", "")
        or "authError" in answer.get("location", "")
        or status == 400
    )
    if refused:
        told = f"the identity provider does not know {back}"
        return Finding(what, False, told, "add it to the OAuth client in the console")
    return Finding(what, True, f"{back} is known to the identity provider")


def _audience(session: Session, url: str, allowed: str) -> Finding:
    """Compare the audience of the token of who asks with those that the service takes."""
    payload = session.token(url).split(".")[1]
    audience = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).get("aud", "")
    found = {audience} if isinstance(audience, str) else set(audience)
    good = bool(found & set(allowed.split(",")))
    told = f"your token is for {', '.join(sorted(found))}" + (
        " (gcloud's own, as every person's)" if GCLOUD_AUDIENCE in found else ""
    )
    fix = "" if good else "add it to oauth/audiences, or ask for a token with --audiences=" + url
    return Finding("audience", good, told + ("" if good else f", the service takes {allowed}"), fix)


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Print the findings. Exit code 1 when something is wrong."""
    findings = examine(session)
    if arguments.json:
        session.say(json.dumps([finding.__dict__ for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            mark, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}[finding.good]
            session.say(f"{mark} {finding.what}: {finding.told}", style)
            for line in finding.fix.splitlines():
                session.say(f"    {line}")
    return 1 if any(finding.good is False for finding in findings) else 0
