# The environment's file with the tool's defaults (deploy/settings.py; a test holds these against them).

locals {
  given       = yamldecode(file(var.file))
  environment = coalesce(var.environment, trimsuffix(basename(var.file), ".yaml"))
  project     = local.given.project
  region      = local.given.region
  base        = "mlflow-${local.given.namespace}"

  names = merge(
    {
      service         = local.base
      service_account = local.base
      repository      = local.base
      bucket          = "${local.project}-${local.base}"
      sql             = local.base
      secrets         = local.base
    },
    try(local.given.names, {}),
  )

  labels = merge({ app = "gatehouse", environment = local.environment }, try(local.given.labels, {}))

  sql = merge(
    {
      version                = "POSTGRES_16"
      tier                   = "db-f1-micro"
      storage_gb             = 10
      availability           = "zonal"
      backups                = 7
      point_in_time_recovery = false
      deletion_protection    = false
      network                = null
      subnet                 = null
      flags                  = {}
    },
    try(local.given.sql, {}),
  )

  service = merge(
    {
      cpu              = "1"
      memory           = "1Gi"
      concurrency      = 40
      min_instances    = 0
      max_instances    = 1
      timeout          = 300
      startup_timeout  = 120
      http2            = true
      direct_transfers = false
      ingress          = "all"
      network          = null
      subnet           = null
      egress           = "private-ranges-only"
    },
    try(local.given.service, {}),
  )

  kms_key = try(local.given.kms_key, null)
  builds  = try(local.given.image, "cloudbuild") == "cloudbuild"

  # A network is named in full, or is this project's.
  private_network = (
    local.sql.network == null ? null
    : strcontains(local.sql.network, "/") ? local.sql.network
    : "projects/${local.project}/global/networks/${local.sql.network}"
  )
  network_name   = local.service.network != null ? local.service.network : local.sql.network
  network_subnet = local.service.subnet != null ? local.service.subnet : local.sql.subnet
  network = (
    local.network_name == null || local.network_subnet == null ? null
    : { network = local.network_name, subnet = local.network_subnet }
  )

  ingress = {
    "all"                               = "INGRESS_TRAFFIC_ALL"
    "internal"                          = "INGRESS_TRAFFIC_INTERNAL_ONLY"
    "internal-and-cloud-load-balancing" = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
  }[local.service.ingress]

  rules_file = try(
    "${dirname(var.file)}/${coalesce(var.lifecycle_rules, try(local.given.bucket.lifecycle, null))}",
    "${path.module}/../lifecycle.json",
  )
  lifecycle = jsondecode(file(local.rules_file)).rule

  secrets = concat(
    ["database-url", "oauth-client-secret", "cookie-secret", "kek-passphrase", "webhook-key"],
    try(local.given.access_policy, null) == null ? [] : ["access-policy"],
  )

  apis = concat(
    [
      "artifactregistry.googleapis.com",
      "cloudbuild.googleapis.com",
      "cloudresourcemanager.googleapis.com",
      "iam.googleapis.com",
      "iamcredentials.googleapis.com",
      "run.googleapis.com",
      "secretmanager.googleapis.com",
      "sqladmin.googleapis.com",
    ],
    can(local.given.housekeeping) ? ["cloudscheduler.googleapis.com"] : [],
    can(local.given.monitoring) ? ["monitoring.googleapis.com"] : [],
    can(local.given.monitoring.budget) ? ["billingbudgets.googleapis.com"] : [],
  )

  # Known before the account is made, so that a plan shows whom it lets in.
  member_service = "serviceAccount:${google_service_account.service.account_id}@${local.project}.iam.gserviceaccount.com"
  member_build   = local.builds ? "serviceAccount:${google_service_account.build[0].account_id}@${local.project}.iam.gserviceaccount.com" : null
}
