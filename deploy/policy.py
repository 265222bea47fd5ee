"""The access policy that an environment ships, read by the same code as the server's:

what it would refuse at its start, `plan` refuses.
"""

from __future__ import annotations


def problems(text: str, environment: str, name: str) -> list[str]:
    """Return what the server would say of a policy's text when it runs with `APP_ENV=environment`.

    Empty when it takes it.
    """
    from gatehouse.policy.reader import PolicyError, parse  # only who ships a policy waits for it

    try:
        parse(text.encode(), environment, name)
    except PolicyError as error:
        return [" ".join(str(problem).split()) for problem in error.problems]
    return []
