# What lives long: APIs, accounts, rights, bucket, database, the secrets' containers, the image repository, the schedule
# and its rights. Values of secrets, the database's user and every release are `python -m deploy release`'s.

data "google_project" "this" {
  project_id = local.project
}

resource "google_project_service" "api" {
  for_each = toset(local.apis)

  project            = local.project
  service            = each.key
  disable_on_destroy = false
}

# Accounts

resource "google_service_account" "service" {
  project      = local.project
  account_id   = local.names.service_account
  display_name = "Gatehouse ${local.environment}"
  description  = "app=gatehouse,environment=${local.environment}"

  depends_on = [google_project_service.api]
}

resource "google_service_account" "build" {
  count = local.builds ? 1 : 0

  project      = local.project
  account_id   = "${substr(local.names.service_account, 0, 24)}-build"
  display_name = "Gatehouse ${local.environment} build"
  description  = "app=gatehouse,environment=${local.environment}"

  depends_on = [google_project_service.api]
}

# The image repository

resource "google_artifact_registry_repository" "images" {
  project       = local.project
  location      = local.region
  repository_id = local.names.repository
  format        = "DOCKER"
  labels        = local.labels

  docker_config {
    immutable_tags = true
  }

  depends_on = [google_project_service.api]
}

resource "google_artifact_registry_repository_iam_member" "push" {
  count = local.builds ? 1 : 0

  project    = local.project
  location   = local.region
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = local.member_build
}

# The artifacts' bucket, and the one of builds

resource "google_storage_bucket" "artifacts" {
  project                     = local.project
  name                        = local.names.bucket
  location                    = upper(local.region)
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels
  force_destroy               = false

  versioning {
    enabled = true
  }

  dynamic "encryption" {
    for_each = local.kms_key == null ? [] : [local.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  dynamic "lifecycle_rule" {
    for_each = local.lifecycle
    content {
      action {
        type          = lifecycle_rule.value.action.type
        storage_class = try(lifecycle_rule.value.action.storageClass, null)
      }
      condition {
        age                        = try(lifecycle_rule.value.condition.age, null)
        num_newer_versions         = try(lifecycle_rule.value.condition.numNewerVersions, null)
        days_since_noncurrent_time = try(lifecycle_rule.value.condition.daysSinceNoncurrentTime, null)
        with_state                 = try(lifecycle_rule.value.condition.isLive ? "LIVE" : "ARCHIVED", null)
        matches_prefix             = try(lifecycle_rule.value.condition.matchesPrefix, null)
      }
    }
  }
}

resource "google_storage_bucket_iam_member" "artifacts" {
  bucket = google_storage_bucket.artifacts.name
  role   = "roles/storage.objectUser"
  member = local.member_service
}

resource "google_storage_bucket" "builds" {
  count = local.builds ? 1 : 0

  project                     = local.project
  name                        = "${substr(local.names.bucket, 0, 57)}-build"
  location                    = upper(local.region)
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels
  force_destroy               = true

  versioning {
    enabled = false
  }

  dynamic "encryption" {
    for_each = local.kms_key == null ? [] : [local.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = 30
    }
  }
}

resource "google_storage_bucket_iam_member" "builds" {
  count = local.builds ? 1 : 0

  bucket = google_storage_bucket.builds[0].name
  role   = "roles/storage.admin" # Cloud Build writes logs to a bucket of one's own only as this
  member = local.member_build
}

# The database

resource "google_sql_database_instance" "server" {
  project             = local.project
  name                = local.names.sql
  region              = local.region
  database_version    = local.sql.version
  encryption_key_name = local.kms_key
  # Of Terraform, and of Cloud SQL itself.
  deletion_protection = local.sql.deletion_protection

  settings {
    tier                        = local.sql.tier
    edition                     = "ENTERPRISE"
    availability_type           = upper(local.sql.availability)
    disk_size                   = local.sql.storage_gb
    disk_type                   = "PD_SSD"
    disk_autoresize             = true
    connector_enforcement       = "REQUIRED"
    deletion_protection_enabled = local.sql.deletion_protection
    user_labels                 = local.labels

    backup_configuration {
      enabled                        = true
      start_time                     = "03:00"
      location                       = local.region
      point_in_time_recovery_enabled = local.sql.point_in_time_recovery

      backup_retention_settings {
        retained_backups = local.sql.backups
        retention_unit   = "COUNT"
      }
    }

    ip_configuration {
      ipv4_enabled    = local.private_network == null
      private_network = local.private_network
      ssl_mode        = "ENCRYPTED_ONLY"
    }

    dynamic "database_flags" {
      for_each = local.sql.flags
      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }
  }

  lifecycle {
    # The disk grows by itself; a release of PostgreSQL is raised by hand, after a backup.
    ignore_changes = [settings[0].disk_size]
  }

  depends_on = [google_project_service.api]
}

resource "google_sql_database" "mlflow" {
  project  = local.project
  instance = google_sql_database_instance.server.name
  name     = "mlflow"
}

resource "google_project_iam_member" "database" {
  project = local.project
  role    = "roles/cloudsql.client"
  member  = local.member_service

  condition {
    title      = local.names.sql
    expression = "resource.name == \"projects/${local.project}/instances/${local.names.sql}\" && resource.service == \"sqladmin.googleapis.com\""
  }
}

# The secrets' containers: what is in them never passes through Terraform, whose state would keep it in clear text.

resource "google_secret_manager_secret" "secret" {
  for_each = toset(local.secrets)

  project   = local.project
  secret_id = "${local.names.secrets}-${each.key}"
  labels    = local.labels

  replication {
    user_managed {
      replicas {
        location = local.region
      }
    }
  }

  lifecycle {
    # The tool's notes: the policy's digest, the OAuth client's id.
    ignore_changes = [annotations]
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_iam_member" "read" {
  for_each = google_secret_manager_secret.secret

  project   = local.project
  secret_id = each.value.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.member_service
}

resource "google_service_account_iam_member" "sign" {
  count = local.service.direct_transfers ? 1 : 0

  service_account_id = google_service_account.service.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.member_service
}

# The service, once a release made it

resource "google_cloud_run_v2_service" "service" {
  count = var.service_exists ? 1 : 0

  project              = local.project
  name                 = local.names.service
  location             = local.region
  ingress              = local.ingress
  invoker_iam_disabled = true
  labels               = local.labels
  deletion_protection  = local.sql.deletion_protection

  template {
    service_account                  = google_service_account.service.email
    timeout                          = "${local.service.timeout}s"
    max_instance_request_concurrency = local.service.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    encryption_key                   = local.kms_key

    scaling {
      min_instance_count = local.service.min_instances
      max_instance_count = local.service.max_instances
    }

    containers {
      image = "promoted"

      resources {
        limits = {
          cpu    = tostring(local.service.cpu)
          memory = local.service.memory
        }
        cpu_idle          = true
        startup_cpu_boost = true
      }

      ports {
        name           = local.service.http2 ? "h2c" : "http1"
        container_port = 8080
      }

      startup_probe {
        initial_delay_seconds = 0
        period_seconds        = 5
        timeout_seconds       = 4
        failure_threshold     = ceil(local.service.startup_timeout / 5)
        http_get {
          path = "/ping"
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 6
        failure_threshold = 3
        http_get {
          path = "/gatehouse/ready"
        }
      }
    }

    dynamic "vpc_access" {
      for_each = local.network == null ? [] : [local.network]
      content {
        egress = upper(replace(local.service.egress, "-", "_"))
        network_interfaces {
          network    = vpc_access.value.network
          subnetwork = vpc_access.value.subnet
        }
      }
    }
  }

  lifecycle {
    # A release's: the image, the settings that follow from it, the secrets' versions, the traffic and who sent it.
    ignore_changes = [
      client,
      client_version,
      traffic,
      template[0].containers[0].image,
      template[0].containers[0].env,
      template[0].containers[0].volume_mounts,
      template[0].volumes,
      template[0].revision,
    ]
  }
}
