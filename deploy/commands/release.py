"""`plan`, `apply`, `smoke`, `migrate`, `rollback`: what changes the service, and what proves it."""

from __future__ import annotations

import argparse
import json

from deploy import cost, denied, execute
from deploy import plan as planning
from deploy.cloud.errors import CloudError
from deploy.config import CANDIDATE
from deploy.exit_codes import CONFIG, DENIED, FAILED
from deploy.observe import State
from deploy.plan import Plan
from deploy.resources import database, images, schema_job, secrets, service
from deploy.session import Session, Stop, ask, oauth_client
from deploy.smoke import SmokeError

CONSOLE = "https://console.cloud.google.com"
SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "run": ("▸", "cyan")}


def _plan(session: Session, arguments: argparse.Namespace) -> tuple[Plan, State]:
    given = ""
    if arguments.oauth_client:
        given, secret, uris = oauth_client(arguments.oauth_client)
        session.vault.give("oauth-client-secret", secret)
    wanted = session.image()
    state = session.observe(wanted)
    made = planning.make(session.config, state, wanted, given, commit(session))
    if given and uris and f"{made.url}/oauth2/callback" not in uris:
        made.notes.append(
            f"The OAuth client's file does not list {made.url}/oauth2/callback as a redirect URI: add it in the "
            "console."
        )
    return made, state


def commit(session: Session) -> str:
    """Return the commit that an image is built from; the sources must be as it has them. Raises Stop."""
    if session.config.settings.image not in images.BUILT:
        return ""
    try:
        changed = images.uncommitted()
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise Stop(
                f"image: not committed: {', '.join(changed[:5])}{more}. An image is built from a commit, and from "
                "nothing that merely lies in"
                " the working copy: commit (or remove) it, then run the same command again"
            )
        return images.commit()
    except images.SourceError as error:
        raise Stop(str(error)) from None


def show(session: Session, made: Plan) -> None:
    """Print a plan for people."""
    config, say = session.config, session.say
    say(f"{config.environment}: {config.project}, {config.region}, {made.url}")
    for title in made.kept:
        say(f"  = {title}", "dim")
    for step in made.steps:
        sign, style = SIGNS[step.verb]
        say(f"  {sign} {step.title}", style)
        for line in step.details:
            say(f"      {line}")
    for refusal in made.refused:
        say(f"  ✗ {refusal}", "red")
    counts = {verb: sum(step.verb == verb for step in made.steps) for verb in SIGNS}
    say()
    if made.refused:
        say(f"{len(made.refused)} can't be changed, so apply would do nothing: see ✗ above.", "red")
    elif not made.steps:
        say(f"Nothing to do: {len(made.kept)} as they should be.")
    else:
        say(
            f"{counts['create']} to create, {counts['change']} to change, {counts['run']} to run, {len(made.kept)} as "
            "they should be."
        )
    say(cost.summary(config))
    for note in made.notes:
        say(f"Note: {note}")


def plan(session: Session, arguments: argparse.Namespace) -> int:
    """Show what `apply` would do."""
    made, _ = _plan(session, arguments)
    if arguments.json:
        session.say(json.dumps(as_json(made), indent=2, ensure_ascii=False))
        return CONFIG if made.refused else 0
    show(session, made)
    if made.refused:
        return CONFIG
    if made.steps:
        session.say("\nThe commands, in an order that works (run them at the top of the repository):\n")
        if any(service.CLIENT_ID in part for step in made.steps for part in step.argv):
            session.say('export OAUTH2_PROXY_CLIENT_ID="…"  # of the OAuth client; see below')
        for step in made.steps:
            session.say(step.shell(session.config))
    if "oauth-client-secret" in made.questions:
        session.say()
        _console_visit(session, made)
    return 0


def as_json(made: Plan) -> dict[str, object]:
    """Return a plan for programs."""
    return {
        "environment": made.config.environment,
        "project": made.config.project,
        "url": made.url,
        "image": made.image,
        "serving": made.serving,
        "kept": made.kept,
        "steps": [
            {
                "key": step.key,
                "verb": step.verb,
                "title": step.title,
                "needs": list(step.needs),
                "details": list(step.details),
                "command": step.shell(made.config),
                "argv": list(step.argv),
            }
            for step in made.steps
        ],
        "refused": [refusal.__dict__ for refusal in made.refused],
        "notes": made.notes,
        "monthly_cost": cost.estimate(made.config),
    }


def _console_visit(session: Session, made: Plan) -> None:
    say, issuer = session.say, session.config.oauth.issuer
    where = f"the provider {issuer}" if issuer else f"{CONSOLE}/auth/clients/create?project={session.config.project}"
    say("One visit to the console: create an OAuth client of the type «Web application» at")
    say(f"  {where}")
    say("with this redirect URI:")
    say(f"  {made.url}/oauth2/callback")


def _questions(session: Session, made: Plan) -> str:
    """Ask what only a person knows, at most twice; return the client's id."""
    if "oauth-client-secret" not in made.questions or session.vault.known("oauth-client-secret"):
        return ""
    _console_visit(session, made)
    client = session.config.oauth.client_id or ask("OAuth client id (or the path of its JSON file): ")
    if client.endswith(".json"):
        client, secret, _ = oauth_client(client)
    else:
        secret = ask("OAuth client secret (not shown): ", hidden=True)
    if not client or not secret:
        raise Stop("without an OAuth client nobody could sign in; run the same command again when there is one")
    session.vault.give("oauth-client-secret", secret)
    return client


def apply(session: Session, arguments: argparse.Namespace) -> int:
    """Make the cloud what the configuration says."""
    made, state = _plan(session, arguments)
    show(session, made)
    if made.refused:
        return CONFIG
    return carry_out(session, made, state, arguments)


def release(session: Session, arguments: argparse.Namespace) -> int:
    """Release on what Terraform made: like `apply`, but what lives long must be there, and as the file says."""
    made, state = _plan(session, arguments)
    foreign = [step for step in made.steps if not planning.of_a_release(step)]
    if foreign or made.refused:
        show(session, made)
        for step in foreign:
            session.say(f"  ✗ {step.title}: is Terraform's", "red")
        raise Stop(
            "what lives long is not as the file says: terraform apply (docs/terraform.md), then the same command again"
        )
    show(session, made)
    return carry_out(session, made, state, arguments)


def carry_out(session: Session, made: Plan, state: State, arguments: argparse.Namespace) -> int:
    """Ask what there is to ask, run the plan, and tell how it went."""
    if made.steps:
        if client := _questions(session, made):
            made = planning.make(session.config, state, made.image, client, commit(session))
        if not arguments.yes and ask("Do it? [y/N] ").lower() not in {"y", "yes"}:
            raise Stop("nothing was changed")
    if arguments.no_smoke:
        made.leave_out_smoke_tests()
    elif not made.steps:
        session.smoke(made.url, made.url)
        return 0
    executor = execute.Executor(session.gcloud, session.google, session.vault, lambda url: session.smoke(url, made.url))
    outcome = execute.run(made, executor, session.out, max(1, arguments.parallel))
    if outcome.good:
        session.say(f"\n{session.config.environment} is up: {made.url}")
        return 0
    _report(session, made, outcome)
    rights = all(isinstance(error, CloudError) and error.kind == "denied" for error in outcome.failed.values())
    return DENIED if rights else FAILED


def _report(session: Session, made: Plan, outcome: execute.Outcome) -> None:
    say = session.say
    for key, error in outcome.failed.items():
        step = next(step for step in made.steps if step.key == key)
        say(f"\n✗ {step.title}\n{told(session, error)}", "red")
        if step.argv:
            say(f"  the command: {step.shell(session.config)}")
    failed = set(outcome.failed)
    say()
    if "image" in failed and session.config.settings.image == "cloudbuild":
        _log_of_build(session)
    if "smoke" in failed and made.serving:
        session.gcloud.write(service.to_revision(session.config, made.serving))
        say(f"The traffic went back to {made.serving}.")
    elif made.serving and made.releases and "traffic" not in outcome.done:
        say(f"The revision {made.serving} has all the traffic, as before.")
    if failed & {"candidate", "deploy", "smoke/candidate", "smoke"}:
        say(f"See why: python -m deploy logs {session.config.given} --severity=WARNING")
    if "migrate" in failed:
        say(f"See why: python -m deploy logs {session.config.given}")
        kept = "The backup from just before is kept; no" if "backup" in outcome.done else "No"
        say(f"{kept} revision was made.")
    elif "migrate" in outcome.done and made.serving and failed:
        say(
            "The database's schema is the new release's. What runs goes on; should a new instance of the old revision "
            "refuse to start,"
            " restore the backup from just before:\n"
            f"  python -m deploy backup {session.config.given}  # lists the backups, and the command that restores one"
        )
    say("Fix it, then run the same command again: it continues from here.")


def told(session: Session, error: Exception) -> str:
    """Return an error with its way out; of a missing right, which and how it is granted."""
    return denied.explain(session.config, session.google, error) if isinstance(error, CloudError) else str(error)


def _log_of_build(session: Session) -> None:
    try:
        text = images.log_of_failed_build(session.config, session.google)
    except CloudError as error:
        text = f"(the build's log can't be read: {error.message})"
    if text:
        session.say("The build's log ends with:")
        session.say("\n".join(f"  {line}" for line in text.splitlines()))


def smoke_test(session: Session, arguments: argparse.Namespace) -> int:
    """Test the live service."""
    public = session.config.public_url(session.number())
    session.smoke(arguments.url or public, public)
    session.say(f"✓ {arguments.url or public}")
    return 0


def migrate(session: Session, arguments: argparse.Namespace) -> int:
    """Back up the database and run the schema migration with the configured image."""
    del arguments
    config, gcloud = session.config, session.gcloud
    wanted = session.image()
    state = session.observe(wanted)
    if state.database is None or not state.account:
        raise Stop("there is no database yet; apply makes it")
    if not (wanted := wanted or state.served.image):
        raise Stop("nothing serves yet, and image is `promoted`: promote makes a release")
    session.say("backing up …")
    gcloud.write(database.create_backup(config, f"{database.BEFORE}a migration"))
    session.say("migrating …")
    version = planning.versions(config, state).get("database-url", "")
    schema_job.run(config, gcloud, session.google, schema_job.argv(config, wanted, version, schema_job.MIGRATE))
    session.say("✓ the schema is up to date")
    return 0


def rollback(session: Session, arguments: argparse.Namespace) -> int:
    """Give the traffic to the revision before the serving one, if its release can work with the database as it is now."""
    config, gcloud = session.config, session.gcloud
    state = session.observe()
    if state.service is None or not state.serving:
        raise Stop("nothing serves, so there is nothing to go back from")
    revisions = service.revisions(config, session.google)
    names = [revision["metadata"]["name"] for revision in revisions]
    earlier = revisions[names.index(state.serving) + 1 :] if state.serving in names else []
    older = [revision for revision in earlier if revision["status"]["conditions"][0]["status"] == "True"]
    if arguments.to:
        older = [r for r in revisions if r["metadata"]["name"] == arguments.to]
    if not older:
        raise Stop(
            f"there is no {'revision ' + arguments.to if arguments.to else 'good revision before ' + state.serving}"
        )
    target = older[0]
    name, before = target["metadata"]["name"], service.found(state.service.answer, target)
    pins = service.pinned(before.secrets)
    _versions_enabled(session, pins)
    version = pins.get(config.names.secret("database-url"), "")
    session.say(f"{state.serving} → {name} ({before.image})")
    if before.image != state.served.image:
        # A revision of before a restore works with the server of then.
        then = config.on(before.sql_instances.rsplit(":", 1)[-1])
        code = schema_job.check(then, gcloud, session.google, before.image, version)
        if code == schema_job.NEWER:
            raise Stop(
                f"the database's schema is newer than {name} knows: that release would refuse to start. To go back all "
                "the same, restore the"
                " backup from before the upgrade (all that was logged since is lost):\n  python -m deploy backup "
                f"{config.given}"
            )
        if code != schema_job.UP_TO_DATE:
            raise Stop(
                f"{name} can't work with the database as it is: `gatehouse migrate --check` ended with exit code {code}"
            )
    if not arguments.no_smoke:
        gcloud.write(service.put_tag(config, CANDIDATE, name))
        try:
            session.smoke(config.url(state.number, CANDIDATE), config.public_url(state.number))
        except SmokeError as error:
            raise Stop(f"{error}\n{state.serving} keeps all the traffic.") from None
        finally:
            gcloud.write(service.untag(config, CANDIDATE))
    gcloud.write(service.to_revision(config, name))
    session.say(f"✓ {name} has all the traffic. The next apply goes forward again.")
    return 0


def _versions_enabled(session: Session, pins: dict[str, str]) -> None:
    """Raise Stop if a secret's version that a revision starts with is not there any more."""
    gone = []
    for name, version in pins.items():
        listed = secrets.versions(session.config, session.google, name)
        states = {item["name"].rsplit("/", 1)[1]: item["state"] for item in listed}
        if states.get(version, "gone") != "ENABLED":
            gone.append(f"{name} version {version} is {states.get(version, 'gone').lower()}")
    if gone:
        raise Stop(
            "that revision could not start any more: "
            + "; ".join(gone)
            + ". A rotation came in between; go forward instead."
        )
