variable "file" {
  description = "The environment's file, as `python -m deploy` takes it: one file for both."
  type        = string
}

variable "environment" {
  description = "The environment's name; by default the file's, without .yaml."
  type        = string
  default     = null
}

variable "lifecycle_rules" {
  description = "A file with the bucket's lifecycle rules in Cloud Storage's own format, relative to the environment's file; by default the file's bucket/lifecycle, or the tool's."
  type        = string
  default     = null
}

variable "service_exists" {
  description = "Whether `python -m deploy release` made the Cloud Run service, so that it is Terraform's from now on (by an import block). Its image, secrets and settings stay the releases'."
  type        = bool
  default     = false
}
