# What the jobs stand on: APIs, buckets, the image repository. Pub/Sub, identities, jobs and alerts have files of their own.

locals {
  services = [
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ]
}

data "google_project" "this" {
  project_id = var.project
}

resource "google_project_service" "this" {
  for_each = toset(local.services)

  service            = each.key
  disable_on_destroy = false # other things in the project may use it
}

# Template specs, staged files, temporary files, sources of Cloud Build.
resource "google_storage_bucket" "work" {
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # Temporary files, when a job that was killed left them. Staged files of running jobs are needed when workers start: kept.
  lifecycle_rule {
    condition {
      age            = 7
      matches_prefix = ["temp/", "build/"]
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.this]
}

# The archive and the model registry. Destroying it takes forgetting what it holds: force_destroy stays off.
resource "google_storage_bucket" "data" {
  name                        = "${var.bucket}-data"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # An alias of the registry that was overwritten, a file deleted by mistake: there for 30 days.
  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age            = var.archive_days_to_coldline
      matches_prefix = ["archive/"]
    }
    action {
      type          = "SetStorageClass"
      storage_class = "COLDLINE"
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the Flex Templates"

  # A tag, once pushed, is what the spec of that version runs.
  docker_config {
    immutable_tags = true
  }

  depends_on = [google_project_service.this]
}
