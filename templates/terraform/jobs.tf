# The jobs. `terraform apply` with another template_version updates a running job in place; destroying drains it.

locals {
  suffix       = var.template_version == "" ? "" : "-${var.template_version}"
  topic_uri    = { for key, topic in google_pubsub_topic.this : key => "pubsub://${var.project}/${topic.name}" }
  event_uri    = { for key, subscription in google_pubsub_subscription.events : key => "pubsub://${var.project}/${subscription.name}" }
  archive_root = "gs://${google_storage_bucket.data.name}/archive/${basename(var.use_case)}"
}

resource "google_dataflow_flex_template_job" "score" {
  provider = google-beta
  count    = var.deploy && var.model != "" ? 1 : 0

  name                    = "${var.name}-score"
  region                  = var.region
  container_spec_gcs_path = "gs://${google_storage_bucket.work.name}/templates/score${local.suffix}.json"

  parameters = {
    use_case     = var.use_case
    input        = local.event_uri["score"]
    model        = var.model
    alerts       = local.topic_uri["alerts"]
    dead_letters = local.topic_uri["dead-letters"]
  }

  service_account_email   = google_service_account.worker.email
  staging_location        = "gs://${google_storage_bucket.work.name}/staging"
  temp_location           = "gs://${google_storage_bucket.work.name}/temp"
  machine_type            = var.machine_type
  max_workers             = var.max_workers
  subnetwork              = var.subnetwork == "" ? null : var.subnetwork
  ip_configuration        = "WORKER_IP_PRIVATE"
  enable_streaming_engine = true
  on_delete               = "drain"

  depends_on = [
    google_artifact_registry_repository_iam_member.worker_images,
    google_project_iam_member.worker_dataflow,
    google_pubsub_subscription_iam_member.worker_subscriber,
    google_pubsub_subscription_iam_member.worker_viewer,
    google_pubsub_topic_iam_member.worker_publisher,
    google_pubsub_topic_iam_member.worker_topic_viewer,
    google_secret_manager_secret_iam_member.worker_secrets,
    google_storage_bucket_iam_member.worker_data,
    google_storage_bucket_iam_member.worker_work,
  ]
}

resource "google_dataflow_flex_template_job" "archive" {
  provider = google-beta
  count    = var.deploy && var.archive ? 1 : 0

  name                    = "${var.name}-archive"
  region                  = var.region
  container_spec_gcs_path = "gs://${google_storage_bucket.work.name}/templates/archive${local.suffix}.json"

  parameters = {
    use_case     = var.use_case
    input        = local.event_uri["archive"]
    output       = local.archive_root
    dead_letters = local.topic_uri["dead-letters"]
  }

  service_account_email   = google_service_account.worker.email
  staging_location        = "gs://${google_storage_bucket.work.name}/staging"
  temp_location           = "gs://${google_storage_bucket.work.name}/temp"
  machine_type            = var.machine_type
  max_workers             = var.max_workers
  subnetwork              = var.subnetwork == "" ? null : var.subnetwork
  ip_configuration        = "WORKER_IP_PRIVATE"
  enable_streaming_engine = true
  on_delete               = "drain"

  depends_on = [
    google_artifact_registry_repository_iam_member.worker_images,
    google_project_iam_member.worker_dataflow,
    google_pubsub_subscription_iam_member.worker_subscriber,
    google_pubsub_subscription_iam_member.worker_viewer,
    google_pubsub_topic_iam_member.worker_publisher,
    google_pubsub_topic_iam_member.worker_topic_viewer,
    google_secret_manager_secret_iam_member.worker_secrets,
    google_storage_bucket_iam_member.worker_data,
    google_storage_bucket_iam_member.worker_work,
  ]
}
