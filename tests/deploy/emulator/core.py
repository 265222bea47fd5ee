"""What every emulated API shares:

the table of handlers, a call, the errors as Google words them, names and IAM policies.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.deploy.emulator.server import Emulator

#: The regions that the emulated services exist in.
REGIONS = frozenset({"europe-west1", "europe-west3", "europe-west4", "us-central1", "us-east1", "asia-northeast1"})


class ApiError(Exception):
    """An error answer: HTTP status, canonical code, and the message that gcloud shows."""

    def __init__(self, status: int, code: str, message: str, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details or []

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON, in the shape that both gcloud's and Google's own clients read."""
        reason = {403: "forbidden", 404: "notFound", 409: "conflict"}.get(self.status, "invalid")
        return {
            "error": {
                "code": self.status,
                "status": self.code,
                "message": self.message,
                "errors": [{"message": self.message, "domain": "global", "reason": reason}],
                "details": self.details,
            }
        }


def invalid(message: str) -> ApiError:
    """Return a 400."""
    return ApiError(400, "INVALID_ARGUMENT", message)


def missing(message: str) -> ApiError:
    """Return a 404."""
    return ApiError(404, "NOT_FOUND", message)


def taken(message: str) -> ApiError:
    """Return a 409 for a name that exists."""
    return ApiError(409, "ALREADY_EXISTS", message)


def denied(permission: str, resource: str) -> ApiError:
    """Return the 403 of a right that the caller lacks."""
    message = f"Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "IAM_PERMISSION_DENIED",
        "domain": "iam.googleapis.com",
        "metadata": {"permission": permission, "resource": resource},
    }
    return ApiError(403, "PERMISSION_DENIED", message, [info])


@dataclass
class Call:
    """One request, already checked against its description."""

    emulator: Emulator
    method: str
    parameters: dict[str, str]
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]
    raw: bytes = b""
    path: str = ""
    #: Who calls, as IAM's policies write it.
    caller: str = ""

    def option(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.query.get(name, [default])[0]


@dataclass
class Raw:
    """An answer that is not JSON."""

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Handler:
    """The code behind one method: what it does, the right it asks for, whether it changes anything."""

    act: Callable[[Call], Any]
    permission: str
    writes: bool


HANDLERS: dict[str, Handler] = {}


def rest(
    *ids: str, permission: str = "", writes: bool = False
) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register a function as the handler of the methods `ids`."""

    def register(act: Callable[[Call], Any]) -> Callable[[Call], Any]:
        for method in ids:
            HANDLERS[method] = Handler(act, permission, writes)
        return act

    return register


def now() -> str:
    """Return the time, as Google writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def etag(value: object) -> str:
    """Return a tag that changes when the value does."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
    return base64.b64encode(digest[:9].encode()).decode()


def name_must_match(pattern: str, name: str, what: str) -> None:
    """Raise the 400 of a malformed name."""
    if not re.fullmatch(pattern, name):
        raise invalid(f"Invalid {what} name '{name}': it must match {pattern}")


def region_must_exist(region: str, service: str) -> None:
    """Raise the 403/404 of a region that is not one."""
    if region not in REGIONS:
        raise ApiError(
            403,
            "PERMISSION_DENIED",
            f"Permission denied on 'locations/{region}' (or it may not exist) for {service}.",
        )


MEMBER = re.compile(
    r"(user|group|serviceAccount|domain|principal|principalSet|deleted|project(Owner|Editor|Viewer)):.+|allUsers|allAuthenticatedUsers"
)


@dataclass
class Policy:
    """An IAM policy: bindings, with the tag that guards against two writers."""

    bindings: list[dict[str, Any]] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """Return the policy as the APIs give it."""
        shown: dict[str, Any] = {
            "version": 3 if any("condition" in b for b in self.bindings) else 1,
            "etag": etag(self.bindings),
        }
        if self.bindings:
            shown["bindings"] = copy.deepcopy(self.bindings)
        return shown

    def replace(self, emulator: Emulator, policy: dict[str, Any]) -> dict[str, Any]:
        """Take a new policy, as `setIamPolicy` does, and return it."""
        if policy.get("etag") not in (None, etag(self.bindings)):
            raise ApiError(
                409,
                "ABORTED",
                "There were concurrent policy changes. Please retry the whole read-modify-write with exponential "
                "backoff.",
            )
        for binding in policy.get("bindings", []):
            if not re.match(r"(roles|projects/[^/]+/roles)/", binding["role"]):
                raise invalid(f"Role {binding['role']} is not supported for this resource.")
            if "condition" in binding and policy.get("version") != 3:
                raise invalid("Requested policy version is 1 but the policy has conditions; version 3 is needed.")
            known = {m for b in self.bindings for m in b["members"]}
            for member in binding["members"]:
                if not MEMBER.fullmatch(member):
                    raise invalid(f"Invalid member {member}: it must be of the form type:identifier.")
                if member.startswith("serviceAccount:") and member not in known:
                    emulator.iam.must_be_known(member.removeprefix("serviceAccount:"))
        self.bindings = [copy.deepcopy(b) for b in policy.get("bindings", []) if b.get("members")]
        emulator.iam.policies_changed()
        return self.view()

    def allows(self, role: str, member: str, resource: str = "") -> bool:
        """Return whether `member` has `role` here (a condition on the resource's name is honoured)."""
        return any(
            role == b["role"]
            and member in b["members"]
            and f'"{resource}"' in b.get("condition", {}).get("expression", f'"{resource}"')
            for b in self.bindings
        )
