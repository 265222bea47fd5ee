output "url" {
  description = "The service's address; the OAuth client's redirect URI is this with /oauth2/callback."
  value       = try(local.given.public_url, "https://${local.names.service}-${data.google_project.this.number}.${local.region}.run.app")
}

output "release" {
  description = "What releases on top of it."
  value       = "python -m deploy release ${var.file}"
}
