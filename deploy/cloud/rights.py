"""Which rights each command needs, and which of Google's roles has each:

the table that `bootstrap` grants from and errors are told by.

The tests' cloud enforces it: every command runs with exactly these, and fails with the role named when one is taken
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
    # around it
    "logging.logEntries.list": "roles/logging.viewer",
    "orgpolicy.policy.get": "roles/orgpolicy.policyViewer",
}
