"""`promote FROM TO`: what serves in one environment is released in another, by its digest. Nothing is built twice."""

from __future__ import annotations

import argparse
from dataclasses import replace

from deploy import plan as planning
from deploy.commands import release
from deploy.exit_codes import CONFIG
from deploy.plan import Step
from deploy.resources import images
from deploy.resources.base import holds
from deploy.session import Session, Stop, open_session


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Release in `arguments.to` the image that serves in the session's environment.

    With all that `apply` does for a release.
    """
    source, target = session.config, open_session(arguments.to)
    if target.config.settings.image != "promoted":
        raise Stop(
            f"{arguments.to}: image is {target.config.settings.image}, so the next apply would take another: set "
            "`image: promoted` in its file"
        )
    served = session.observe().served.image
    if not served:
        raise Stop(f"nothing serves in {source.environment}, so there is nothing to promote")
    digest = images.digest(session.google, served)
    if not digest:
        raise Stop(f"{served} is in no repository of Artifact Registry that you can read, so its digest is not known")
    image = f"{images.without_tag(served)}@{digest}"
    state = target.observe(image)
    made = planning.make(target.config, state, image)
    _let_in(session, target, image, made, state.number)
    session.say(f"{source.environment} → {target.config.environment}: {image}")
    release.show(target, made)
    if made.refused:
        return CONFIG
    return release.carry_out(target, made, state, arguments)


def _let_in(session: Session, target: Session, image: str, made: planning.Plan, number: str) -> None:
    """Let Cloud Run of another project pull from the repository that the image is in:

    put the grant first, if it is missing.
    """
    place = images.place(image)
    if place is None or place.project == target.config.project:
        return
    member = f"serviceAccount:service-{number}@serverless-robot-prod.iam.gserviceaccount.com"
    if holds(images.policy_of(session.google, place), images.READER, member):
        return
    title = f"right of {target.config.project}'s Cloud Run to pull from {place.repository}"
    step = Step("right/pull", "create", title, images.bind_reader(place, member))
    made.steps = [step, *(replace(s, needs=(*s.needs, "right/pull")) for s in made.steps)]
