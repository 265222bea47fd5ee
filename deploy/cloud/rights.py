"""Which rights each command needs, and which of Google's roles has each: the tables that errors are told by.

The tests' cloud enforces them: every command runs with exactly these, and fails with the role named when one is taken
away.
"""

from __future__ import annotations

#: Permission → the least of Google's own roles that has it and the others of its kind that the tool uses.
ROLES = {
    # project
    "serviceusage.services.list": "roles/serviceusage.serviceUsageConsumer",
    "serviceusage.services.enable": "roles/serviceusage.serviceUsageAdmin",
    "resourcemanager.projects.get": "roles/browser",
    "resourcemanager.projects.getIamPolicy": "roles/browser",
    "resourcemanager.projects.setIamPolicy": "roles/resourcemanager.projectIamAdmin",
    # accounts
    "iam.serviceAccounts.get": "roles/iam.serviceAccountViewer",
    "iam.serviceAccounts.getIamPolicy": "roles/iam.serviceAccountViewer",
    "iam.serviceAccounts.create": "roles/iam.serviceAccountAdmin",
    "iam.serviceAccounts.update": "roles/iam.serviceAccountAdmin",
    "iam.serviceAccounts.enable": "roles/iam.serviceAccountAdmin",
    "iam.serviceAccounts.delete": "roles/iam.serviceAccountAdmin",
    "iam.serviceAccounts.setIamPolicy": "roles/iam.serviceAccountAdmin",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.getOpenIdToken": "roles/iam.serviceAccountOpenIdTokenCreator",
    # secrets
    "secretmanager.secrets.list": "roles/secretmanager.viewer",
    "secretmanager.secrets.get": "roles/secretmanager.viewer",
    "secretmanager.secrets.getIamPolicy": "roles/secretmanager.viewer",
    "secretmanager.versions.list": "roles/secretmanager.viewer",
    "secretmanager.versions.get": "roles/secretmanager.viewer",
    "secretmanager.secrets.create": "roles/secretmanager.admin",
    "secretmanager.secrets.update": "roles/secretmanager.admin",
    "secretmanager.secrets.delete": "roles/secretmanager.admin",
    "secretmanager.secrets.setIamPolicy": "roles/secretmanager.admin",
    "secretmanager.versions.add": "roles/secretmanager.secretVersionManager",
    "secretmanager.versions.disable": "roles/secretmanager.secretVersionManager",
    "secretmanager.versions.access": "roles/secretmanager.secretAccessor",
    # bucket
    "storage.buckets.get": "roles/storage.admin",
    "storage.buckets.getIamPolicy": "roles/storage.admin",
    "storage.buckets.create": "roles/storage.admin",
    "storage.buckets.update": "roles/storage.admin",
    "storage.buckets.delete": "roles/storage.admin",
    "storage.buckets.setIamPolicy": "roles/storage.admin",
    "storage.buckets.list": "roles/storage.admin",
    "storage.objects.create": "roles/storage.admin",
    "storage.objects.get": "roles/storage.admin",
    "storage.objects.list": "roles/storage.admin",
    "storage.objects.delete": "roles/storage.admin",
    # database
    "cloudsql.instances.list": "roles/cloudsql.viewer",
    "cloudsql.instances.get": "roles/cloudsql.viewer",
    "cloudsql.databases.list": "roles/cloudsql.viewer",
    "cloudsql.users.list": "roles/cloudsql.viewer",
    "cloudsql.backupRuns.list": "roles/cloudsql.viewer",
    "cloudsql.instances.create": "roles/cloudsql.admin",
    "cloudsql.instances.update": "roles/cloudsql.admin",
    "cloudsql.instances.delete": "roles/cloudsql.admin",
    "cloudsql.instances.clone": "roles/cloudsql.admin",
    "cloudsql.instances.restoreBackup": "roles/cloudsql.admin",
    "cloudsql.databases.create": "roles/cloudsql.admin",
    "cloudsql.users.create": "roles/cloudsql.admin",
    "cloudsql.users.update": "roles/cloudsql.admin",
    "cloudsql.backupRuns.create": "roles/cloudsql.admin",
    "cloudsql.backupRuns.delete": "roles/cloudsql.admin",
    # images
    "artifactregistry.repositories.get": "roles/artifactregistry.reader",
    "artifactregistry.repositories.getIamPolicy": "roles/artifactregistry.admin",
    "artifactregistry.tags.get": "roles/artifactregistry.reader",
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "artifactregistry.repositories.update": "roles/artifactregistry.admin",
    "artifactregistry.repositories.delete": "roles/artifactregistry.admin",
    "artifactregistry.repositories.setIamPolicy": "roles/artifactregistry.admin",
    "cloudbuild.builds.create": "roles/cloudbuild.builds.editor",
    "cloudbuild.builds.get": "roles/cloudbuild.builds.editor",
    "cloudbuild.builds.list": "roles/cloudbuild.builds.editor",
    # service
    "run.services.get": "roles/run.viewer",
    "run.services.list": "roles/run.viewer",
    "run.revisions.get": "roles/run.viewer",
    "run.revisions.list": "roles/run.viewer",
    "run.jobs.get": "roles/run.viewer",
    "run.executions.get": "roles/run.viewer",
    "run.executions.list": "roles/run.viewer",
    "run.tasks.list": "roles/run.viewer",
    "run.services.create": "roles/run.admin",
    "run.services.update": "roles/run.admin",
    "run.services.delete": "roles/run.admin",
    "run.services.getIamPolicy": "roles/run.admin",
    "run.services.setIamPolicy": "roles/run.admin",
    "run.jobs.create": "roles/run.admin",
    "run.jobs.update": "roles/run.admin",
    "run.jobs.run": "roles/run.admin",
    "run.jobs.delete": "roles/run.admin",
    "run.jobs.getIamPolicy": "roles/run.admin",
    "run.jobs.setIamPolicy": "roles/run.admin",
    # what runs and watches by itself
    "cloudscheduler.jobs.get": "roles/cloudscheduler.viewer",
    "cloudscheduler.jobs.create": "roles/cloudscheduler.admin",
    "cloudscheduler.jobs.update": "roles/cloudscheduler.admin",
    "cloudscheduler.jobs.delete": "roles/cloudscheduler.admin",
    "logging.buckets.get": "roles/logging.configWriter",
    "logging.buckets.create": "roles/logging.configWriter",
    "logging.buckets.update": "roles/logging.configWriter",
    "logging.buckets.delete": "roles/logging.configWriter",
    "logging.buckets.undelete": "roles/logging.configWriter",
    "logging.sinks.get": "roles/logging.configWriter",
    "logging.sinks.create": "roles/logging.configWriter",
    "logging.sinks.update": "roles/logging.configWriter",
    "logging.sinks.delete": "roles/logging.configWriter",
    "logging.logMetrics.get": "roles/logging.configWriter",
    "logging.logMetrics.create": "roles/logging.configWriter",
    "logging.logMetrics.update": "roles/logging.configWriter",
    "logging.logMetrics.delete": "roles/logging.configWriter",
    "monitoring.notificationChannels.list": "roles/monitoring.viewer",
    "monitoring.notificationChannels.get": "roles/monitoring.viewer",
    "monitoring.notificationChannels.create": "roles/monitoring.editor",
    "monitoring.notificationChannels.update": "roles/monitoring.editor",
    "monitoring.notificationChannels.delete": "roles/monitoring.editor",
    "monitoring.alertPolicies.list": "roles/monitoring.viewer",
    "monitoring.alertPolicies.get": "roles/monitoring.viewer",
    "monitoring.alertPolicies.create": "roles/monitoring.editor",
    "monitoring.alertPolicies.update": "roles/monitoring.editor",
    "monitoring.alertPolicies.delete": "roles/monitoring.editor",
    "monitoring.uptimeCheckConfigs.list": "roles/monitoring.viewer",
    "monitoring.uptimeCheckConfigs.get": "roles/monitoring.viewer",
    "monitoring.uptimeCheckConfigs.create": "roles/monitoring.editor",
    "monitoring.uptimeCheckConfigs.update": "roles/monitoring.editor",
    "monitoring.uptimeCheckConfigs.delete": "roles/monitoring.editor",
    "monitoring.dashboards.get": "roles/monitoring.viewer",
    "monitoring.dashboards.create": "roles/monitoring.editor",
    "monitoring.dashboards.update": "roles/monitoring.editor",
    "monitoring.dashboards.delete": "roles/monitoring.editor",
    "billing.budgets.list": "roles/billing.costsManager",
    "billing.budgets.get": "roles/billing.costsManager",
    "billing.budgets.create": "roles/billing.costsManager",
    "billing.budgets.update": "roles/billing.costsManager",
    "billing.budgets.delete": "roles/billing.costsManager",
    # around it
    "logging.logEntries.list": "roles/logging.viewer",
    "orgpolicy.policy.get": "roles/orgpolicy.policyViewer",
}

#: What every look at an environment asks for.
LOOK = frozenset(
    {
        "serviceusage.services.list", "resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy",
        "iam.serviceAccounts.get", "iam.serviceAccounts.getIamPolicy",
        "storage.buckets.get", "storage.buckets.getIamPolicy",
        "artifactregistry.repositories.get",
        "cloudsql.instances.get", "cloudsql.databases.list", "cloudsql.users.list", "cloudsql.backupRuns.list",
        "secretmanager.secrets.list", "secretmanager.secrets.getIamPolicy", "secretmanager.versions.list",
        "run.services.get", "run.revisions.get", "run.jobs.get",
        "logging.buckets.get", "logging.sinks.get", "logging.logMetrics.get",
    }
)  # fmt: skip
#: With `housekeeping` and `monitoring`, and what an image that is built asks for besides.
WATCH = frozenset(
    {
        "cloudscheduler.jobs.get", "run.jobs.getIamPolicy", "monitoring.notificationChannels.list", "monitoring.alertPolicies.list",
        "monitoring.uptimeCheckConfigs.list", "monitoring.dashboards.get",
    }
)  # fmt: skip
BUILD = frozenset(
    {
        "artifactregistry.repositories.getIamPolicy", "artifactregistry.repositories.setIamPolicy", "artifactregistry.tags.get",
        "cloudbuild.builds.create", "cloudbuild.builds.get", "cloudbuild.builds.list", "storage.objects.create", "storage.objects.get",
        "storage.objects.list", "storage.buckets.list",
    }
)  # fmt: skip
_JOB = frozenset(
    {
        "iam.serviceAccounts.actAs", "run.jobs.create", "run.jobs.update", "run.jobs.run", "run.executions.get", "run.executions.list",
        "run.tasks.list",
    }
)  # fmt: skip
_RELEASE = frozenset({"iam.serviceAccounts.actAs", "run.services.update"})
#: What makes and changes an environment's resources.
_MAKE = frozenset(
    {
        "serviceusage.services.enable", "resourcemanager.projects.setIamPolicy",
        "iam.serviceAccounts.create", "iam.serviceAccounts.update", "iam.serviceAccounts.enable", "iam.serviceAccounts.setIamPolicy",
        "artifactregistry.repositories.create", "artifactregistry.repositories.update",
        "cloudsql.instances.create", "cloudsql.instances.update", "cloudsql.databases.create", "cloudsql.users.create",
        "cloudsql.users.update", "cloudsql.backupRuns.create", "cloudsql.backupRuns.delete",
        "secretmanager.secrets.create", "secretmanager.secrets.get", "secretmanager.secrets.update", "secretmanager.secrets.setIamPolicy",
        "secretmanager.versions.add", "secretmanager.versions.access",
        "storage.buckets.create", "storage.buckets.update", "storage.buckets.setIamPolicy",
        "run.services.create",
    }
)  # fmt: skip
_MAKE_WATCH = frozenset(
    {
        "run.jobs.setIamPolicy", "cloudscheduler.jobs.create", "cloudscheduler.jobs.update", "cloudscheduler.jobs.delete",
        "run.jobs.delete", "logging.buckets.create", "logging.buckets.update", "logging.buckets.undelete",
        *(f"logging.{what}.{verb}" for what in ("sinks", "logMetrics") for verb in ("create", "update", "delete")),
        *(
            f"monitoring.{what}.{verb}"
            for what in ("notificationChannels", "alertPolicies", "uptimeCheckConfigs", "dashboards")
            for verb in ("create", "update", "delete")
        ),
    }
)  # fmt: skip

#: Command → its rights, for an image that exists already and without what watches: with it, WATCH comes to all that
#: look, and to `apply` and `destroy` what makes and takes it. `smoke` needs the project's number alone; `bootstrap` is
#: an owner's, once; `doctor` tells what it may not see.
NEEDS: dict[str, frozenset[str]] = {
    "plan": LOOK,
    "status": LOOK | {"cloudsql.instances.list", "run.executions.list"},
    "apply": LOOK | _MAKE | _JOB | _RELEASE,
    "backup": frozenset({"cloudsql.backupRuns.create", "cloudsql.backupRuns.list", "cloudsql.instances.get"}),
    "rotate": LOOK
    | _RELEASE
    | {
        "run.revisions.list", "cloudsql.users.update", "secretmanager.versions.access", "secretmanager.versions.add",
        "secretmanager.versions.disable",
    },
    "migrate": LOOK
    | {
        "cloudsql.backupRuns.create", "iam.serviceAccounts.actAs", "run.jobs.update", "run.jobs.run", "run.executions.get",
    },
    "restore": LOOK
    | _RELEASE
    | (_JOB - {"run.tasks.list"})
    | {
        "resourcemanager.projects.setIamPolicy", "cloudsql.instances.create", "cloudsql.instances.restoreBackup",
        "cloudsql.users.update", "secretmanager.versions.add", "secretmanager.versions.access", "run.jobs.delete",
        "logging.logEntries.list",
    },
    "rollback": LOOK | _RELEASE | {"run.revisions.list"},
    "logs": frozenset({"logging.logEntries.list"}),
    "destroy": LOOK
    | {
        "resourcemanager.projects.setIamPolicy", "iam.serviceAccounts.delete", "artifactregistry.repositories.delete",
        "artifactregistry.repositories.getIamPolicy", "run.services.list", "cloudsql.instances.list", "cloudsql.instances.delete",
        "secretmanager.secrets.delete", "storage.buckets.delete",
        "storage.objects.list", "storage.objects.delete", "run.services.delete", "run.jobs.delete",
    },
}  # fmt: skip
