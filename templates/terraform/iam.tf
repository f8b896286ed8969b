# Who may do what: one account for each part, and for each only what it does.

locals {
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
  worker       = "serviceAccount:${google_service_account.worker.email}"
  builder      = "serviceAccount:${google_service_account.builder.email}"
  launcher     = "serviceAccount:${google_service_account.launcher.email}"
}

# Runs the launcher of a template and the workers of its job.
resource "google_service_account" "worker" {
  account_id   = "${var.name}-worker"
  display_name = "Highbeam: Dataflow launcher VM and workers"
}

# Builds the images (Cloud Build) and publishes the specs.
resource "google_service_account" "builder" {
  account_id   = "${var.name}-builder"
  display_name = "Highbeam: builds and publishes the Flex Templates"
}

# Starts, updates and drains jobs; var.launchers act as it.
resource "google_service_account" "launcher" {
  account_id   = "${var.name}-launcher"
  display_name = "Highbeam: starts Flex Template jobs"
}

# Worker: take work from Dataflow, report progress, write logs and metrics.
resource "google_project_iam_member" "worker_dataflow" {
  project = var.project
  role    = "roles/dataflow.worker"
  member  = local.worker
}

# Worker: read specs and staged files, write temporary ones.
resource "google_storage_bucket_iam_member" "worker_work" {
  bucket = google_storage_bucket.work.name
  role   = "roles/storage.objectUser"
  member = local.worker
}

# Worker: write the archive (and delete files it has not finished), read models.
resource "google_storage_bucket_iam_member" "worker_data" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectUser"
  member = local.worker
}

# Worker: pull the image.
resource "google_artifact_registry_repository_iam_member" "worker_images" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = local.worker
}

# Worker: read events and acknowledge them.
resource "google_pubsub_subscription_iam_member" "worker_subscriber" {
  for_each = local.readers

  subscription = google_pubsub_subscription.events[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

# Worker: see that the subscriptions are there, before the start, and how far behind they are.
resource "google_pubsub_subscription_iam_member" "worker_viewer" {
  for_each = local.readers

  subscription = google_pubsub_subscription.events[each.key].name
  role         = "roles/pubsub.viewer"
  member       = local.worker
}

# Worker: write alerts and dead letters.
resource "google_pubsub_topic_iam_member" "worker_publisher" {
  for_each = toset(["alerts", "dead-letters"])

  topic  = google_pubsub_topic.this[each.key].name
  role   = "roles/pubsub.publisher"
  member = local.worker
}

# Worker: see that these topics, and the one that is read, are there before the start.
resource "google_pubsub_topic_iam_member" "worker_topic_viewer" {
  for_each = toset(["events", "alerts", "dead-letters"])

  topic  = google_pubsub_topic.this[each.key].name
  role   = "roles/pubsub.viewer"
  member = local.worker
}

# Worker: the secrets that options refer to, those and no others.
resource "google_secret_manager_secret_iam_member" "worker_secrets" {
  for_each = var.secrets

  secret_id = each.key
  role      = "roles/secretmanager.secretAccessor"
  member    = local.worker
}

# Builder: push images.
resource "google_artifact_registry_repository_iam_member" "builder_images" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = local.builder
}

# Builder: read the sources it was sent, write the specs. Replacing TEMPLATE.json takes delete as well.
resource "google_storage_bucket_iam_member" "builder_work" {
  bucket = google_storage_bucket.work.name
  role   = "roles/storage.objectUser"
  member = local.builder

  condition {
    title      = "sources and specs"
    expression = "resource.name.startsWith('projects/_/buckets/${google_storage_bucket.work.name}/objects/build/') || resource.name.startsWith('projects/_/buckets/${google_storage_bucket.work.name}/objects/templates/')"
  }
}

# Builder: write the build's log.
resource "google_project_iam_member" "builder_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = local.builder
}

# Launcher: start, update, drain, cancel and see jobs.
resource "google_project_iam_member" "launcher_dataflow" {
  project = var.project
  role    = "roles/dataflow.developer"
  member  = local.launcher
}

# Launcher: start jobs that run as the worker, as no other account.
resource "google_service_account_iam_member" "launcher_acts_as_worker" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = local.launcher
}

# Launcher: read the specs.
resource "google_storage_bucket_iam_member" "launcher_specs" {
  bucket = google_storage_bucket.work.name
  role   = "roles/storage.objectViewer"
  member = local.launcher
}

# People: act as the launcher, with gcloud's --impersonate-service-account.
resource "google_service_account_iam_member" "people" {
  for_each = var.launchers

  service_account_id = google_service_account.launcher.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.key
}

# Pub/Sub itself: move what cannot be delivered to the undelivered topic…
resource "google_pubsub_topic_iam_member" "pubsub_undelivered" {
  topic  = google_pubsub_topic.this["undelivered"].name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

# … and take it off the subscriptions it came from.
resource "google_pubsub_subscription_iam_member" "pubsub_events" {
  for_each = local.readers

  subscription = google_pubsub_subscription.events[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "pubsub_outlets" {
  for_each = setsubtract(local.outlets, ["undelivered"])

  subscription = google_pubsub_subscription.outlet[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}
