"""IAM: service accounts, which the rest of the cloud hears of late, and identity tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.deploy.emulator import sts
from tests.deploy.emulator.core import ApiError, Call, Policy, missing, name_must_match, rest, taken
from tests.deploy.emulator.project import Project


class Iam:
    """The project's service accounts."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.accounts: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, Policy] = {}
        #: How many times a policy still refuses a new account ("does not exist"), per account.
        self.lag = 0
        self._unheard: dict[str, int] = {}
        #: How many revisions still start with the rights of before, after a policy changed.
        self.stale = 0
        #: What signs identity tokens: (account, audience) → token. Set by the tests that need one.
        self.sign: Callable[[str, str], str] | None = None

    def must_be_known(self, email: str) -> None:
        """Raise the 400 of an account that IAM does not know (yet)."""
        if not email.endswith(f"@{self.project.id}.iam.gserviceaccount.com"):
            return
        if email not in self.accounts or self._unheard.get(email, 0) > 0:
            self._unheard[email] = self._unheard.get(email, 0) - 1
            raise ApiError(400, "INVALID_ARGUMENT", f"Service account {email} does not exist.")

    def policy_of(self, email: str) -> Policy:
        """Return the policy of an account as a resource: who may act as it, or sign in its name."""
        return self.policies.setdefault(email, Policy())

    def created(self, email: str) -> None:
        """Start the time in which others do not know the account."""
        self._unheard[email] = self.lag

    def policies_changed(self) -> None:
        """Start the time in which rights are those of before."""
        self.stale = self.lag


@rest("iam.projects.serviceAccounts.create", permission="iam.serviceAccounts.create", writes=True)
def create(call: Call) -> Any:
    iam = call.emulator.iam
    iam.project.must_be(call.parameters["name"].split("/")[1])
    name = call.body["accountId"]
    name_must_match(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])", name, "service account")
    email = f"{name}@{iam.project.id}.iam.gserviceaccount.com"
    if email in iam.accounts:
        raise taken(f"Service account {name} already exists within project projects/{iam.project.id}.")
    iam.accounts[email] = {
        "name": f"projects/{iam.project.id}/serviceAccounts/{email}",
        "projectId": iam.project.id,
        "uniqueId": "1" + str(len(iam.accounts)).zfill(20),
        "email": email,
        **call.body.get("serviceAccount", {}),
    }
    iam.created(email)
    return iam.accounts[email]


def _account(call: Call) -> dict[str, Any]:
    name = call.parameters.get("name") or call.parameters["resource"]
    email = name.split("/")[3]
    if email not in call.emulator.iam.accounts:
        raise missing(f"Unknown service account: {email}")
    return call.emulator.iam.accounts[email]


@rest("iam.projects.serviceAccounts.get", permission="iam.serviceAccounts.get")
def get(call: Call) -> Any:
    return _account(call)


@rest("iam.projects.serviceAccounts.delete", permission="iam.serviceAccounts.delete", writes=True)
def delete(call: Call) -> Any:
    account = _account(call)
    del call.emulator.iam.accounts[account["email"]]
    call.emulator.iam.policies.pop(account["email"], None)
    gone = f"serviceAccount:{account['email']}"
    every = [call.emulator.project.policy, *(s.policy for s in call.emulator.secrets.all.values())]
    every += [bucket.policy for bucket in call.emulator.storage.buckets.values()]
    for policy in every:
        for binding in policy.bindings:
            binding["members"] = [
                f"deleted:{gone}?uid={account['uniqueId']}" if m == gone else m for m in binding["members"]
            ]
    return {}


@rest("iam.projects.serviceAccounts.getIamPolicy", permission="iam.serviceAccounts.getIamPolicy")
def get_policy(call: Call) -> Any:
    return call.emulator.iam.policies.get(_account(call)["email"], Policy()).view()


@rest("iam.projects.serviceAccounts.setIamPolicy", permission="iam.serviceAccounts.setIamPolicy", writes=True)
def set_policy(call: Call) -> Any:
    policy = call.emulator.iam.policy_of(_account(call)["email"])
    return policy.replace(call.emulator, call.body["policy"])


@rest("iam.projects.serviceAccounts.patch", permission="iam.serviceAccounts.update", writes=True)
def patch(call: Call) -> Any:
    account = _account(call)
    for name in call.body["updateMask"].split(","):
        key = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
        account[key] = call.body["serviceAccount"].get(key, "")
    return account


@rest("iam.projects.serviceAccounts.enable", permission="iam.serviceAccounts.enable", writes=True)
def enable(call: Call) -> Any:
    _account(call).pop("disabled", None)
    return {}


def _named(call: Call, permission: str) -> dict[str, Any]:
    """Return the account that a token is asked of; the caller may be allowed on the account alone."""
    cloud, email = call.emulator, call.parameters["name"].split("/")[3]
    cloud.must(call.caller, permission, email)
    if email not in cloud.iam.accounts:
        raise missing(f"Not found; Gaia id not found for email {email}")
    return cloud.iam.accounts[email]


@rest("iamcredentials.projects.serviceAccounts.generateIdToken")
def generate_id_token(call: Call) -> Any:
    account, sign = _named(call, "iam.serviceAccounts.getOpenIdToken"), call.emulator.iam.sign
    if sign is None:
        raise missing("the test signs no tokens")
    return {
        "token": sign(account["email"] if call.body.get("includeEmail") else account["uniqueId"], call.body["audience"])
    }


@rest("iamcredentials.projects.serviceAccounts.generateAccessToken")
def generate_access_token(call: Call) -> Any:
    account = _named(call, "iam.serviceAccounts.getAccessToken")
    token = sts.give_access(call.emulator, f"serviceAccount:{account['email']}")
    return {"accessToken": token, "expireTime": "2099-01-01T00:00:00Z"}
