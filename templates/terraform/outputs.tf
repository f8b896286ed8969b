output "events_topic" {
  description = "Where devices and gateways publish events."
  value       = google_pubsub_topic.this["events"].id
}

output "alerts_subscription" {
  description = "Where alerts are read."
  value       = google_pubsub_subscription.outlet["alerts"].id
}

output "archive" {
  description = "Folder of the archive: model.train's --data."
  value       = local.archive_root
}

output "models" {
  description = "Folder of the model registry: model.train's --registry."
  value       = "gs://${google_storage_bucket.data.name}/models"
}

output "repository" {
  description = "Image repository: make template's REPO."
  value       = google_artifact_registry_repository.images.repository_id
}

output "service_accounts" {
  description = "Accounts of the workers, the builds and the launches."
  value = {
    worker   = google_service_account.worker.email
    builder  = google_service_account.builder.email
    launcher = google_service_account.launcher.email
  }
}
