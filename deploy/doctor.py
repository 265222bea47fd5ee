"""`doctor`: what stands in the way around the deployment itself, each finding with its fix."""

from __future__ import annotations

import argparse
import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from deploy import commands, image, observe, smoke
from deploy.config import GCLOUD_AUDIENCE
from deploy.gcloud import GcloudError
from deploy.session import Session
from deploy.smoke import SmokeError
from deploy.status import rights


@dataclass(frozen=True)
class Finding:
    """One check: `good` is None where it could not be made."""

    what: str
    good: bool | None
    told: str
    fix: str = ""


#: Constraint → (what it forbids, what to do). Those that this deployment can run into.
POLICIES = {
    "run.managed.requireInvokerIam": (
        "services without Cloud Run's own IAM check",
        "ask for an exception for this project: the proxy is the gate, and that check strips the tokens' signatures",
    ),
    "sql.restrictPublicIp": (
        "databases with a public address",
        "set sql/network and sql/subnet in the environment's file",
    ),
    "run.allowedIngress": (
        "ingress from everywhere",
        "ask for an exception, or put a load balancer in front (docs/deploy.md)",
    ),
}


def examine(session: Session) -> list[Finding]:
    """Make every check and return the findings."""
    config, gcloud = session.config, session.gcloud
    findings: list[Finding] = []
    state = observe.State()

    def add(what: str, check: Callable[[], Finding]) -> None:
        try:
            findings.append(check())
        except (GcloudError, SmokeError) as error:
            findings.append(Finding(what, None, str(error).splitlines()[0], getattr(error, "fix", "")))

    def billing() -> Finding:
        good = bool(gcloud.json(commands.billing_describe(config)).get("billingEnabled"))
        link = f"https://console.cloud.google.com/billing/linkedaccount?project={config.project}"
        return Finding(
            "billing",
            good,
            "a billing account is linked" if good else "no billing account is linked",
            "" if good else link,
        )

    def policy(constraint: str) -> Finding:
        rules = gcloud.json(commands.org_policy(config, constraint)).get("spec", {}).get("rules", [])
        forbidden = any(rule.get("enforce") or rule.get("denyAll") for rule in rules)
        what, fix = POLICIES[constraint]
        return Finding(
            f"policy {constraint}",
            not forbidden,
            f"{'forbids' if forbidden else 'allows'} {what}",
            fix if forbidden else "",
        )

    add("billing", billing)
    for constraint in POLICIES:
        if constraint != "sql.restrictPublicIp" or "network" not in config.sql:
            add(f"policy {constraint}", lambda constraint=constraint: policy(constraint))  # type: ignore[misc]
    try:
        state = observe.observe(config, gcloud, image.wanted(config))
    except GcloudError as error:
        findings.append(Finding("project", False, error.message, error.fix))
        return findings
    missing = [api for api in commands.APIS if api not in state.apis]
    told = f"not enabled: {', '.join(missing)}" if missing else "all enabled"
    findings.append(Finding("APIs", not missing, told, "python -m deploy apply enables them" if missing else ""))
    used, allowed = config.connection_budget()
    findings.append(
        Finding(
            "connections",
            used <= allowed,
            f"at most {used} of the {allowed} that {config.sql['tier']} allows",
        )
    )
    if state.account is not None:
        wrong = rights(config, state)
        findings.append(
            Finding(
                "rights",
                not wrong,
                "; ".join(wrong) or "as they must be",
                "python -m deploy apply adds what is missing" if wrong else "",
            )
        )
    if state.serving:
        url = config.public_url(state.number)
        add("redirect URI", lambda: _redirect(session, url))
        add(
            "audience",
            lambda: _audience(session, url, state.table.get("env/OAUTH2_PROXY_OIDC_EXTRA_AUDIENCES", "")),
        )
    return findings


def _redirect(session: Session, url: str) -> Finding:
    """Ask the identity provider what it thinks of our redirect URI."""
    del session
    _, fields, _ = smoke._ask(f"{url}/", os.environ, "Accept: text/html", "Sec-Fetch-Mode: navigate")
    location = fields.get("location", "")
    back = parse_qs(urlsplit(location).query).get("redirect_uri", [""])[0]
    if not back.startswith(f"{url}/"):
        return Finding(
            "redirect URI",
            False,
            f"people would come back to {back or '(nowhere)'}",
            "PUBLIC_URL is wrong: apply sets it",
        )
    status, answer, body = smoke._ask(location, os.environ, "Accept: text/html")
    refused = (
        "redirect_uri_mismatch" in body + answer.get("location", "")
        or "authError" in answer.get("location", "")
        or status == 400
    )
    if refused:
        return Finding(
            "redirect URI",
            False,
            f"the identity provider does not know {back}",
            "add it to the OAuth client in the console",
        )
    return Finding("redirect URI", True, f"{back} is known to the identity provider")


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
            if finding.fix:
                session.say(f"    {finding.fix}")
    return 1 if any(finding.good is False for finding in findings) else 0
