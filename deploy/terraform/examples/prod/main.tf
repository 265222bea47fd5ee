# deploy/environments/prod.yaml is read by both: `terraform apply` makes what lives long, `python -m deploy release prod`
# what is served on it.

terraform {
  required_version = ">= 1.9"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50.0, < 7.0.0"
    }
  }
}

module "gatehouse" {
  source = "../.."
  file   = "${path.module}/../../../environments/prod.yaml"
}

output "url" {
  value = module.gatehouse.url
}
