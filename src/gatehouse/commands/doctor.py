"""``gatehouse doctor``: look at everything that a start depends on, change nothing, and say what is wrong.

It looks at the settings, the database and its schema, the artifact store, and the identity provider's keys.
From the training script's side looks the client's own: ``mlflow-gatehouse doctor``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gatehouse.exit_codes import Exit

NETWORK_TIMEOUT_S = 10
#: What a start says of a port that it can't have (prepare.check_port).
TAKEN = "which another program listens on"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``ok``, or what is wrong with it and the exit code that a start would end with."""

    part: str
    ok: bool
    text: str
    code: int = Exit.OK


def look_at_settings(template: Path, is_running: bool = False) -> Iterator[Finding]:
    """Check the settings as start.sh does; of a gate that runs, its own ports are taken."""
    from gatehouse.start.prepare import exit_code, prepare
    from gatehouse.start.settings import SettingsError

    with tempfile.TemporaryDirectory(prefix="gatehouse-doctor.") as folder:
        try:
            prepare(os.environ, template, Path(folder))
        except SettingsError as error:
            problems = [each for each in set(error.problems) if not (is_running and TAKEN in each.what)]
            for problem in sorted(problems):
                yield Finding("settings", False, str(problem), exit_code(problems))
            if problems:
                return
        yield Finding("settings", True, "all settings are well formed")


def settings_needed() -> int:
    """Return how many connections the workers need at once.

    0 if the settings don't tell, which is reported with them.
    """
    from gatehouse.start.settings import SettingsError, connections_needed, load

    try:
        return connections_needed(load(os.environ).workers)
    except SettingsError:
        return 0


def look_at_database(limit_s: float) -> Iterator[Finding]:
    """Connect, and compare the schema with the installed MLflow's."""
    from gatehouse.commands import migrate
    from gatehouse.database import reach, schema

    try:
        engine = schema.make_engine(migrate.database_uri())
        if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
            yield Finding("database", True, "the file isn't there yet: the first start creates it")
            return
        reach.wait_for_database(engine, limit_s, lambda _: None)
        with reach.told(engine):
            with engine.connect() as connection:
                found = schema.inspect(connection)
                schema.refuse(found)
                reach.check_rights(connection, to_create=found.state is schema.State.EMPTY)
            reach.check_pooler(engine, settings_needed())
    except reach.SchemaError as error:
        yield Finding("database", False, str(error), error.code)
        return
    except Exception as error:  # one part that fails in a way of its own hides no other
        yield Finding("database", False, f"fails: {type(error).__name__}: {error}", Exit.UNAVAILABLE)
        return
    words = (
        "is empty: the first start creates the schema"
        if found.state is schema.State.EMPTY
        else f"has the schema {found.wanted}"
    )
    yield Finding("database", True, f"{engine.url.render_as_string(hide_password=True)} {words}")


def look_at_artifacts() -> Iterator[Finding]:
    """Look whether the server's own account may do in the artifact store what it must."""
    from gatehouse.start.settings import Invalid, parse_artifacts

    value = os.environ.get("ARTIFACTS_DESTINATION", "")
    if not value:
        yield Finding("artifacts", True, "clients write to the bucket themselves: nothing to look at here")
        return
    try:
        root = parse_artifacts(value)
    except Invalid:
        return  # reported with the settings
    from gatehouse.artifacts.stores import open_store
    from gatehouse.artifacts.stores.base import CannotSign, StoreError

    try:
        store = open_store(root)
        store.check()
        yield Finding("artifacts", True, f"{root} can be written, read, listed and deleted in")
        if os.environ.get("DIRECT_TRANSFERS") == "true":
            store.check_signing()
            yield Finding("direct transfers", True, "URLs can be signed")
    except StoreError as error:
        part = "direct transfers" if isinstance(error, CannotSign) else "artifacts"
        yield Finding(part, False, f"{root}: {error}", Exit.UNAVAILABLE)
    except Exception as error:  # whatever the store's library raises is what the reader must see
        yield Finding("artifacts", False, f"{root} fails: {type(error).__name__}: {error}", Exit.UNAVAILABLE)


def look_at_issuer() -> Iterator[Finding]:
    """Fetch the issuer's discovery document, as token verification will fetch its keys."""
    provider = os.environ.get("OAUTH2_PROXY_PROVIDER") or "google"
    issuer = os.environ.get("OAUTH2_PROXY_OIDC_ISSUER_URL") or (
        "https://accounts.google.com" if provider == "google" else ""
    )
    if not issuer:
        return
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    if not url.startswith(("https://", "http://localhost", "http://127.0.0.1")):
        return  # reported with the settings
    try:
        with urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_S) as answer:  # noqa: S310 - the scheme is checked above
            document = json.load(answer)
    except (OSError, ValueError) as error:
        yield Finding(
            "identity provider",
            False,
            f"{url}: {error}\n    fix: check the issuer's URL and this machine's way out",
            Exit.UNAVAILABLE,
        )
        return
    if document.get("issuer") != issuer:
        text = (
            f"{url} says that its issuer is {document.get('issuer')!r}, not {issuer!r}\n    fix: set "
            "OAUTH2_PROXY_OIDC_ISSUER_URL to exactly that"
        )
        yield Finding("identity provider", False, text, Exit.SETTINGS)
        return
    yield Finding("identity provider", True, f"{issuer} answers")


def look_at_machines() -> Iterator[Finding]:
    """Fetch the keys of each issuer of machines' tokens, as the verification will."""
    from gatehouse.identities import issuers, keyset

    try:
        named = issuers.parse(os.environ.get("MACHINE_ISSUERS", ""))
    except issuers.BadIssuer:
        return  # reported with the settings
    for issuer in named:
        try:
            found = keyset.fetch(issuer)
        except keyset.NoKeys as error:
            text = f"{error}\n    fix: check its address, or keys=, ca= and token= in MACHINE_ISSUERS"
            yield Finding(f"the machines' issuer {issuer.name}", False, text, Exit.UNAVAILABLE)
        else:
            yield Finding(f"the machines' issuer {issuer.name}", True, f"{issuer.url} publishes {len(found)} keys")


def examine(template: Path, database_limit_s: float, is_running: bool = False) -> list[Finding]:
    """Look at every part; one that fails doesn't hide another.

    Args:
        is_running: whether a gate with these settings runs now.
    """
    from gatehouse.start.settings import read_secret_files

    os.environ.update(read_secret_files(os.environ)[0])
    parts: list[Callable[[], Iterator[Finding]]] = [
        lambda: look_at_settings(template, is_running),
        lambda: look_at_database(database_limit_s),
        look_at_artifacts,
        look_at_issuer,
        look_at_machines,
    ]
    return [finding for part in parts for finding in part()]


def default_template() -> Path:
    """Return the template beside start.sh: GATEHOUSE_HOME in the image, the checkout otherwise."""
    home = os.environ.get("GATEHOUSE_HOME")
    return (Path(home) if home else Path(__file__).resolve().parents[3]) / "oauth2_proxy.cfg.tmpl"


def main(argv: list[str]) -> int:
    """Run the command; return 0, or the exit code of the first thing that is wrong."""
    parser = argparse.ArgumentParser(prog="gatehouse doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--wait", type=float, default=10, metavar="SECONDS", help="how long to wait for the database (10)"
    )
    arguments = parser.parse_args(argv)
    findings = examine(default_template(), arguments.wait)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(
                f"{'ok   ' if finding.ok else 'ERROR'} {finding.part}: {finding.text}",
                file=sys.stdout if finding.ok else sys.stderr,
            )
    return next((finding.code for finding in findings if not finding.ok), Exit.OK)
