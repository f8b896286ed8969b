# What somebody should be told of. Names of jobs begin with var.name where they are in jobs.tf, and with highbeam where
# they are started by `make launch` or a command line without a name of its own.

locals {
  names   = "(${var.name}|highbeam)-.*"
  of_jobs = "resource.type = \"dataflow_job\" AND resource.labels.job_name = monitoring.regex.full_match(\"${local.names}\")"

  # Dataflow reports the jobs' counters as gauges of their running total: a rate has to be made of them.
  counter = "dataflow_googleapis_com:job_user_counter{monitored_resource=\"dataflow_job\",job_name=~\"${local.names}\",metric_name=\"%s\"}"
  dead    = format(local.counter, "dead_letters")
  read    = format(local.counter, "records_read")
}

resource "google_monitoring_alert_policy" "system_lag" {
  display_name          = "${var.name}: events wait too long"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "system lag above ${var.max_system_lag_seconds} s for 5 minutes"

    condition_threshold {
      filter          = "metric.type = \"dataflow.googleapis.com/job/system_lag\" AND ${local.of_jobs}"
      comparison      = "COMPARISON_GT"
      threshold_value = var.max_system_lag_seconds
      duration        = "300s"

      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The oldest event has been in the job for too long: too few workers (max_workers), a broker or registry that is away, or a step that fails again and again. Look at the job's worker logs, then at its CPU."
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "dead_letters" {
  display_name          = "${var.name}: many dead letters"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "more than ${var.max_dead_letters_per_minute} dead letters a minute"

    condition_prometheus_query_language {
      query               = "sum by (job_name) (max_over_time(${local.dead}[5m]) - min_over_time(${local.dead}[5m])) / 5 > ${var.max_dead_letters_per_minute}"
      duration            = "0s"
      evaluation_interval = "60s"
      # The metric is known once a first job has reported it.
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Records that no step can handle. Each dead letter names its reason: `gcloud pubsub subscriptions pull ${var.name}-dead-letters-out --limit=5`. docs/operations.md lists the reasons; `python -m beam_jobs.redrive` puts the records back when the cause is mended."
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "undelivered" {
  display_name          = "${var.name}: events were given up"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "undelivered messages"

    condition_threshold {
      filter          = "metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${google_pubsub_subscription.outlet["undelivered"].name}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Pub/Sub gave messages up after many attempts: they end the worker that takes them, or the job was failing for long. They are in ${var.name}-undelivered-out; publish them to the events topic again when the cause is mended."
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "job_failed" {
  display_name          = "${var.name}: a job failed"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "job failed"

    condition_threshold {
      filter          = "metric.type = \"dataflow.googleapis.com/job/is_failed\" AND ${local.of_jobs}"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Nothing is lost: what was read and not written is not acknowledged. A template that does not launch says why in staging/template_launches/JOB_ID/console_logs of the work bucket."
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "no_data" {
  display_name          = "${var.name}: no events are read"
  combiner              = "OR"
  notification_channels = var.notification_channels
  enabled               = var.deploy

  conditions {
    display_name = "no event read for 15 minutes, or no job that reports"

    condition_prometheus_query_language {
      query                     = "sum by (job_name) (max_over_time(${local.read}[15m]) - min_over_time(${local.read}[15m])) == 0 or absent(${local.read})"
      duration                  = "300s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Either nothing comes in (look at the topic's publish rate) or nothing is read: the job was stopped, or waits for its broker."
  }

  depends_on = [google_project_service.this]
}
