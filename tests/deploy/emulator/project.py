"""The project itself: enabled APIs (Service Usage), its number and IAM policy (Resource Manager), billing, policies."""

from __future__ import annotations

import re
from typing import Any

from tests.deploy.emulator.core import ApiError, Call, Policy, invalid, missing, rest

OWNER = {"role": "roles/owner", "members": ["user:owner@example.com"]}

#: Every API that exists, as far as the emulator knows.
KNOWN = {
    f"{name}.googleapis.com"
    for name in (
        *(
            "run",
            "sqladmin",
            "sql-component",
            "secretmanager",
            "artifactregistry",
            "cloudbuild",
            "iam",
            "iamcredentials",
            "sts",
        ),
        *(
            "cloudresourcemanager",
            "serviceusage",
            "storage",
            "logging",
            "compute",
            "servicenetworking",
            "cloudscheduler",
            "monitoring",
            "billingbudgets",
            "cloudbilling",
            "orgpolicy",
        ),
    )
}


class Project:
    """A project with its enabled APIs."""

    def __init__(self, project_id: str, number: str) -> None:
        self.id, self.number = project_id, number
        #: A new project has these, and more that do not matter here.
        self.enabled = {f"{api}.googleapis.com" for api in ("serviceusage", "storage", "logging", "sql-component")}
        self.policy = Policy([dict(OWNER)])
        self.billing = True
        #: Organisation policies in force: constraint → the effective rule.
        self.constraints: dict[str, dict[str, Any]] = {}
        #: Whether a freshly enabled API refuses its first request, as in reality.
        self.slow = False
        self.settling: set[str] = set()

    def must_serve(self, api: str, always: set[str]) -> None:
        """Raise the 403 of an API that is not enabled, or not yet everywhere."""
        if api in always:
            return
        if api in self.enabled and api not in self.settling:
            return
        self.settling.discard(api)
        raise ApiError(
            403,
            "PERMISSION_DENIED",
            f"{api.split('.')[0]} API has not been used in project {self.number} before or it is disabled. Enable it "
            "by "
            f"visiting https://console.developers.google.com/apis/api/{api}/overview?project={self.number} then retry. "
            "If you enabled this API recently, wait a few minutes for the action to propagate to our systems and "
            "retry.",
            [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "SERVICE_DISABLED",
                    "domain": "googleapis.com",
                    "metadata": {"consumer": f"projects/{self.number}", "service": api},
                }
            ],
        )

    def forbids(self, constraint: str, value: str) -> bool:
        """Return whether an organisation's list policy forbids a value."""
        rule = self.constraints.get(constraint, {})
        allowed = rule.get("values", {}).get("allowedValues")
        denied = rule.get("values", {}).get("deniedValues", [])
        return bool(rule.get("denyAll") or value in denied or (allowed is not None and value not in allowed))

    def must_be_allowed_here(self, region: str) -> None:
        """Raise the 412 of a region that the organisation forbids."""
        if self.forbids("gcp.resourceLocations", f"in:{region.lower()}-locations"):
            raise ApiError(
                412,
                "FAILED_PRECONDITION",
                f"'{region}' violates constraint 'constraints/gcp.resourceLocations' on the resource "
                f"'projects/{self.id}'.",
            )

    def must_be(self, name: str) -> None:
        """Raise the 403 that any project but this one gives."""
        if name not in {self.id, self.number}:
            raise ApiError(
                403,
                "PERMISSION_DENIED",
                f"The caller does not have permission: projects/{name} (or it may not exist)",
            )


@rest("serviceusage.services.list", permission="serviceusage.services.list")
def list_services(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["parent"].split("/")[1])
    return {
        "services": [
            {
                "name": f"projects/{project.number}/services/{name}",
                "parent": f"projects/{project.number}",
                "config": {"name": name},
                "state": "ENABLED",
            }
            for name in sorted(project.enabled)
        ]
    }


@rest("serviceusage.services.get", permission="serviceusage.services.get")
def get_service(call: Call) -> Any:
    project, parts = call.emulator.project, call.parameters["name"].split("/")
    project.must_be(parts[1])
    state = "ENABLED" if parts[3] in project.enabled else "DISABLED"
    return {
        "name": f"projects/{project.number}/services/{parts[3]}",
        "config": {"name": parts[3]},
        "state": state,
    }


@rest("serviceusage.services.batchEnable", permission="serviceusage.services.enable", writes=True)
def enable_services(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["parent"].split("/")[1])
    if unknown := set(call.body["serviceIds"]) - KNOWN:
        raise missing(f"Service(s) {sorted(unknown)} not found or permission denied.")
    if len(call.body["serviceIds"]) > 20:
        raise invalid("Batch size is limited to 20 services.")
    if not project.billing:
        raise ApiError(
            400,
            "FAILED_PRECONDITION",
            f"Billing account for project '{project.number}' is not found. Billing must be enabled for activation of "
            f"service(s) '{', '.join(call.body['serviceIds'])}' to proceed.",
        )
    fresh = set(call.body["serviceIds"]) - project.enabled
    project.settling |= fresh if project.slow else set()
    project.enabled |= fresh
    return {"name": "operations/acat.p2-enable", "done": False}


@rest("serviceusage.services.enable", permission="serviceusage.services.enable", writes=True)
def enable_service(call: Call) -> Any:
    name = call.parameters["name"].split("/")
    call.body = {"serviceIds": [name[3]]}
    call.parameters["parent"] = "/".join(name[:2])
    return enable_services(call)


@rest("serviceusage.operations.get")
def service_operation(call: Call) -> Any:
    return {
        "name": call.parameters["name"],
        "done": True,
        "response": {"@type": "type.googleapis.com/google.api.serviceusage.v1.BatchEnableServicesResponse"},
    }


@rest("cloudresourcemanager.projects.get", permission="resourcemanager.projects.get")
def get_project(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["projectId"])
    return {
        "projectId": project.id,
        "projectNumber": project.number,
        "name": project.id,
        "lifecycleState": "ACTIVE",
        "createTime": "2026-01-01T00:00:00Z",
    }


@rest("cloudresourcemanager.projects.getIamPolicy", permission="resourcemanager.projects.getIamPolicy")
def get_policy(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["resource"])
    return project.policy.view()


@rest(
    "cloudresourcemanager.projects.setIamPolicy",
    permission="resourcemanager.projects.setIamPolicy",
    writes=True,
)
def set_policy(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["resource"])
    policy = call.body["policy"]
    if not any(b["role"] == "roles/owner" for b in policy.get("bindings", [])):
        raise invalid("A policy must keep at least one owner.")
    return project.policy.replace(call.emulator, policy)


@rest("cloudresourcemanager.projects.testIamPermissions")
def permissions_of_caller(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["resource"])
    return {"permissions": [p for p in call.body["permissions"] if call.emulator.may(call.caller, p)]}


@rest("cloudbilling.projects.getBillingInfo", permission="resourcemanager.projects.get")
def billing(call: Call) -> Any:
    project = call.emulator.project
    project.must_be(call.parameters["name"].split("/")[1])
    return {
        "name": f"projects/{project.id}/billingInfo",
        "projectId": project.id,
        "billingAccountName": "billingAccounts/012345-567890-ABCDEF" if project.billing else "",
        "billingEnabled": project.billing,
    }


@rest("orgpolicy.projects.policies.getEffectivePolicy", permission="orgpolicy.policy.get")
def effective_policy(call: Call) -> Any:
    match = re.fullmatch(r"projects/([^/]+)/policies/(.+)", call.parameters["name"])
    assert match is not None
    project = call.emulator.project
    project.must_be(match[1])
    rule = project.constraints.get(match[2], {"enforce": False})
    return {"name": call.parameters["name"], "spec": {"rules": [rule]}}
