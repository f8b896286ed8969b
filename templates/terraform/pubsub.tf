# events ─► events-score, events-archive ─► jobs ─► alerts ─► alerts-out
#                    └─ after many attempts ─► undelivered ─► undelivered-out
# The jobs' dead letters go to dead-letters ─► dead-letters-out, for beam_jobs.redrive.

locals {
  week    = "604800s"
  topics  = toset(["events", "alerts", "dead-letters", "undelivered"])
  readers = toset(var.archive ? ["score", "archive"] : ["score"])
  # Subscriptions for people and other programs, by the topic they read.
  outlets = toset(["alerts", "dead-letters", "undelivered"])
}

resource "google_pubsub_topic" "this" {
  for_each = local.topics

  name = "${var.name}-${each.key}"
  # Replay: a new subscription may start a week back.
  message_retention_duration = each.key == "events" ? local.week : null

  depends_on = [google_project_service.this]
}

# What the jobs read. Exactly-once delivery stays off: Dataflow has its own, and the source drops repeats.
resource "google_pubsub_subscription" "events" {
  for_each = local.readers

  name                       = "${var.name}-events-${each.key}"
  topic                      = google_pubsub_topic.this["events"].id
  ack_deadline_seconds       = 60
  message_retention_duration = local.week

  expiration_policy {
    ttl = "" # never, even when the job is off for a month
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.this["undelivered"].id
    max_delivery_attempts = var.input_max_delivery_attempts
  }
}

resource "google_pubsub_subscription" "outlet" {
  for_each = local.outlets

  name                       = "${var.name}-${each.key}-out"
  topic                      = google_pubsub_topic.this[each.key].id
  ack_deadline_seconds       = 60
  message_retention_duration = local.week

  expiration_policy {
    ttl = ""
  }

  retry_policy {
    minimum_backoff = "1s"
    maximum_backoff = "60s"
  }

  # What undelivered itself cannot deliver stays where it is.
  dynamic "dead_letter_policy" {
    for_each = each.key == "undelivered" ? [] : [1]
    content {
      dead_letter_topic     = google_pubsub_topic.this["undelivered"].id
      max_delivery_attempts = 20
    }
  }
}
