"""Google's own roles, as far as the emulated APIs check:

role → permissions, from "IAM roles and permissions index" (read in 2025).

Not the tool's table (`deploy.cloud.rights`): what that one claims is held against this one.
"""

from __future__ import annotations

import fnmatch

#: Patterns of permissions; the roles hold more, of which nothing here asks.
ROLES: dict[str, tuple[str, ...]] = {
    "roles/owner": ("*",),
    "roles/editor": (
        "run.*", "cloudsql.*", "artifactregistry.*", "cloudbuild.*", "serviceusage.*", "iam.serviceAccounts.actAs",
        "iam.serviceAccounts.create", "iam.serviceAccounts.get", "resourcemanager.projects.get", "logging.logEntries.list",
    ),
    "roles/viewer": (
        "run.*.get", "run.*.list", "cloudsql.*.get", "cloudsql.*.list", "artifactregistry.*.get", "artifactregistry.*.list",
        "cloudbuild.builds.get", "cloudbuild.builds.list", "resourcemanager.projects.get", "logging.logEntries.list",
        "storage.buckets.list", "serviceusage.services.list", "serviceusage.services.get",
    ),
    "roles/browser": ("resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy"),
    "roles/resourcemanager.projectIamAdmin": (
        "resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy", "resourcemanager.projects.setIamPolicy",
    ),
    "roles/iam.securityReviewer": ("*.getIamPolicy", "*.list"),
    "roles/serviceusage.serviceUsageConsumer": (
        "serviceusage.services.get", "serviceusage.services.list", "serviceusage.services.use",
    ),
    "roles/serviceusage.serviceUsageAdmin": ("serviceusage.*",),
    "roles/iam.serviceAccountViewer": (
        "iam.serviceAccounts.get", "iam.serviceAccounts.list", "iam.serviceAccounts.getIamPolicy", "resourcemanager.projects.get",
    ),
    "roles/iam.serviceAccountAdmin": (
        "iam.serviceAccounts.create", "iam.serviceAccounts.delete", "iam.serviceAccounts.disable", "iam.serviceAccounts.enable",
        "iam.serviceAccounts.get", "iam.serviceAccounts.getIamPolicy", "iam.serviceAccounts.list", "iam.serviceAccounts.setIamPolicy",
        "iam.serviceAccounts.update", "resourcemanager.projects.get",
    ),
    "roles/iam.serviceAccountUser": ("iam.serviceAccounts.actAs", "iam.serviceAccounts.get", "iam.serviceAccounts.list"),
    "roles/iam.serviceAccountOpenIdTokenCreator": ("iam.serviceAccounts.getOpenIdToken",),
    "roles/iam.serviceAccountTokenCreator": (
        "iam.serviceAccounts.get", "iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken",
        "iam.serviceAccounts.signBlob", "iam.serviceAccounts.signJwt", "iam.serviceAccounts.list",
    ),
    "roles/iam.workloadIdentityUser": (
        "iam.serviceAccounts.get", "iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken",
        "iam.serviceAccounts.list",
    ),
    "roles/iam.workloadIdentityPoolAdmin": ("iam.workloadIdentityPools.*", "iam.workloadIdentityPoolProviders.*"),
    "roles/secretmanager.admin": ("secretmanager.*",),
    "roles/secretmanager.viewer": (
        "secretmanager.secrets.get", "secretmanager.secrets.list", "secretmanager.secrets.getIamPolicy",
        "secretmanager.versions.get", "secretmanager.versions.list",
    ),
    "roles/secretmanager.secretAccessor": ("secretmanager.versions.access",),
    "roles/secretmanager.secretVersionManager": (
        "secretmanager.versions.add", "secretmanager.versions.disable", "secretmanager.versions.enable", "secretmanager.versions.destroy",
        "secretmanager.versions.get", "secretmanager.versions.list",
    ),
    "roles/storage.admin": ("storage.*",),
    "roles/storage.objectUser": ("storage.objects.*", "storage.folders.*", "storage.managedFolders.*"),
    "roles/cloudsql.admin": ("cloudsql.*",),
    "roles/cloudsql.viewer": ("cloudsql.*.get", "cloudsql.*.list"),
    "roles/cloudsql.client": ("cloudsql.instances.connect", "cloudsql.instances.get"),
    "roles/cloudsql.instanceUser": ("cloudsql.instances.get", "cloudsql.instances.login"),
    "roles/artifactregistry.admin": ("artifactregistry.*",),
    "roles/artifactregistry.reader": ("artifactregistry.*.get", "artifactregistry.*.list", "artifactregistry.repositories.downloadArtifacts"),
    "roles/artifactregistry.writer": (
        "artifactregistry.*.get", "artifactregistry.*.list", "artifactregistry.repositories.downloadArtifacts",
        "artifactregistry.repositories.uploadArtifacts",
    ),
    "roles/cloudbuild.builds.editor": (
        "cloudbuild.builds.create", "cloudbuild.builds.get", "cloudbuild.builds.list", "cloudbuild.builds.update",
        "resourcemanager.projects.get",
    ),
    "roles/run.admin": ("run.*", "resourcemanager.projects.get"),
    "roles/run.viewer": ("run.*.get", "run.*.list", "run.services.getIamPolicy"),
    "roles/logging.viewer": ("logging.logEntries.list", "logging.logs.list", "logging.sinks.get", "logging.sinks.list"),
    "roles/logging.configWriter": ("logging.sinks.*", "logging.buckets.*", "logging.logMetrics.*"),
    "roles/orgpolicy.policyViewer": ("orgpolicy.policy.get", "orgpolicy.constraints.list"),
    "roles/monitoring.editor": ("monitoring.*",),
    "roles/monitoring.viewer": ("monitoring.*.get", "monitoring.*.list"),
    "roles/billing.costsManager": ("billing.budgets.*",),
    "roles/cloudscheduler.admin": ("cloudscheduler.*",),
    "roles/cloudscheduler.viewer": ("cloudscheduler.*.get", "cloudscheduler.*.list"),
}  # fmt: skip


def has(role: str, permission: str) -> bool:
    """Return whether a role has a permission."""
    return any(fnmatch.fnmatchcase(permission, pattern) for pattern in ROLES.get(role, ()))
