"""`rotate`: a new value for a secret, a new revision with it, and the old version disabled once the new one serves."""

from __future__ import annotations

import argparse

from deploy.cloud.errors import CloudError
from deploy.config import CANDIDATE
from deploy.observe import State
from deploy.resources import database, secrets, service
from deploy.resources.secrets import ROTATABLE, SECRETS, password_of
from deploy.session import Session, Stop, ask, oauth_client
from deploy.smoke import SmokeError


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Renew one secret. On a failure the old revision keeps the traffic and (for the database) its password."""
    config, gcloud, say = session.config, session.gcloud, session.say
    key = ROTATABLE[arguments.secret]
    name = config.names.secret(key)
    state = session.observe()
    if state.service is None or not state.serving or key not in state.secrets:
        raise Stop("nothing serves yet: apply first")
    old = state.pins[name]
    environment: dict[str, str] = {}
    if key == "oauth-client-secret":
        client = _new_client(session, arguments)
        environment = {"OAUTH2_PROXY_CLIENT_ID": client} if client else {}
    # Read before anything is changed: who couldn't read it could not put the old password back.
    before = session.vault.stored(key, old) if key == "database-url" else ""
    say(f"a new version of {name} …")
    new = (
        gcloud.write((*secrets.add(config, name), "--format=value(name)"), session.vault.value(key))
        .strip()
        .rsplit("/", 1)[-1]
    )
    if not new.isdigit():
        raise Stop(f"gcloud did not say which version of {name} it made, but {new!r}")
    pins = {
        setting: ref
        for setting, ref in service.references(config, _pins(session, state)).items()
        if ref.rsplit(":", 1)[0] == name
    }
    changed = dict.fromkeys(pins, f"{name}:{new}")
    try:
        if key == "database-url":
            say(
                "the database user's new password (until the new revision serves, the old one's new connections are "
                "refused) …"
            )
            _password(session, session.vault.value(key))
        say("a new revision, without traffic …")
        gcloud.write(service.exchange_secrets(config, changed, environment, CANDIDATE))
        if not arguments.no_smoke:
            session.smoke(config.url(state.number, CANDIDATE), config.public_url(state.number))
        gcloud.write(service.to_tag(config, CANDIDATE))
    except (CloudError, SmokeError) as error:
        if key == "database-url":
            _password(session, before)
        gcloud.write(secrets.disable(config, name, new))
        raise session.stopped(
            error,
            f"{state.serving} keeps all the traffic with version {old} of {name}; version {new} is disabled again."
            " Fix it, then run the same command again.",
        ) from None
    gcloud.write(service.untag(config, CANDIDATE))
    if environment:
        gcloud.write(secrets.annotate(config, name, {"client-id": environment["OAUTH2_PROXY_CLIENT_ID"]}))
    for item in secrets.versions(config, session.google, name):
        version = item["name"].rsplit("/", 1)[1]
        if version != new and item["state"] == "ENABLED":
            gcloud.write(secrets.disable(config, name, version))
            say(f"version {version} of {name} is disabled")
    say(f"✓ version {new} of {name} serves ({SECRETS[key].what})")
    return 0


def _pins(session: Session, state: State) -> dict[str, str]:
    return {key: state.pins.get(session.config.names.secret(key), "1") for key in SECRETS}


def _password(session: Session, url: str) -> None:
    secret = session.gcloud.redactor.know(password_of(url))
    session.gcloud.write(database.set_password(session.config), f"--password: {secret}\n")


def _new_client(session: Session, arguments: argparse.Namespace) -> str:
    """Take the new client's secret, and return its id if that changes too."""
    path = arguments.oauth_client or ask("path of the new OAuth client's JSON file (empty: type the new secret): ")
    if path:
        client, secret, _ = oauth_client(path)
    else:
        client, secret = "", ask("OAuth client secret (not shown): ", hidden=True)
    if not secret:
        raise Stop("no secret was given; nothing was changed")
    session.vault.give("oauth-client-secret", secret)
    return client
