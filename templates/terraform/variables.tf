variable "project" {
  description = "Google Cloud project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project is a project id: 6 to 30 lower-case letters, digits and hyphens."
  }
}

variable "region" {
  description = "Region of the jobs, the buckets and the image repository."
  type        = string
  default     = "us-central1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is a region, not a zone: us-central1."
  }
}

variable "name" {
  description = "Prefix of everything that is made, so that two installations fit into one project."
  type        = string
  default     = "highbeam"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,15}$", var.name))
    error_message = "name has 2 to 16 lower-case letters, digits and hyphens: service account ids are made of it."
  }
}

variable "bucket" {
  description = "Name of the bucket of templates, staging and temporary files; the data bucket is BUCKET-data."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{1,56}[a-z0-9]$", var.bucket))
    error_message = "bucket is a bucket's name without gs://, at most 58 characters."
  }
}

variable "deploy" {
  description = "Whether to run the jobs. false at first: they need images and specs, which make template publishes into what this makes."
  type        = bool
  default     = false
}

variable "template_version" {
  description = "Version of the template specs to run, as make template's TAG; empty: the newest."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]*$", var.template_version))
    error_message = "template_version is a tag: 0.2.0-fc89c62."
  }
}

variable "use_case" {
  description = "A use case that ships with Highbeam, or a gs:// folder with use_case.yaml."
  type        = string
  default     = "car_sensors"

  validation {
    condition     = length(var.use_case) > 0
    error_message = "use_case must not be empty."
  }
}

variable "model" {
  description = "Model registry and alias or version: gs://BUCKET-data/models@champion. Empty: no score job."
  type        = string
  default     = ""

  validation {
    condition     = var.model == "" || can(regex("^gs://[^@]+(@[A-Za-z0-9_-]+)?$", var.model))
    error_message = "model is gs://bucket/folder or gs://bucket/folder@alias."
  }
}

variable "archive" {
  description = "Whether to run the archive job beside the score job, with a subscription of its own."
  type        = bool
  default     = true
}

variable "input_max_delivery_attempts" {
  description = "Attempts after which Pub/Sub moves an event of the input subscriptions to the undelivered topic. The jobs send what they cannot handle to their own dead letters; this catches what kills workers."
  type        = number
  default     = 100

  validation {
    condition     = var.input_max_delivery_attempts >= 5 && var.input_max_delivery_attempts <= 100
    error_message = "input_max_delivery_attempts: Pub/Sub takes 5 to 100."
  }
}

variable "archive_days_to_coldline" {
  description = "Age in days at which archived files move to Coldline storage."
  type        = number
  default     = 90

  validation {
    condition     = var.archive_days_to_coldline >= 1
    error_message = "archive_days_to_coldline must be at least 1."
  }
}

variable "machine_type" {
  description = "Machine type of the workers."
  type        = string
  default     = "n2-standard-2"
}

variable "max_workers" {
  description = "Most workers of each job."
  type        = number
  default     = 4

  validation {
    condition     = var.max_workers >= 1 && var.max_workers <= 1000
    error_message = "max_workers: 1 to 1000."
  }
}

variable "subnetwork" {
  description = "Subnetwork of the workers, as regions/REGION/subnetworks/NAME, with Private Google Access: workers have no public addresses. Empty: the default network's."
  type        = string
  default     = ""

  validation {
    condition     = var.subnetwork == "" || can(regex("(^|/)regions/[^/]+/subnetworks/[^/]+$", var.subnetwork))
    error_message = "subnetwork: regions/REGION/subnetworks/NAME."
  }
}

variable "secrets" {
  description = "Ids of the Secret Manager secrets that the workers may read (Kafka password, HMAC key): the ids, never the values."
  type        = set(string)
  default     = []
}

variable "launchers" {
  description = "Who may start jobs: IAM members such as group:data@example.com."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.launchers : can(regex("^(user|group|serviceAccount|principal|principalSet):", member))])
    error_message = "launchers are IAM members: user:, group: or serviceAccount: and an address."
  }
}

variable "notification_channels" {
  description = "Cloud Monitoring notification channels of the alerts: projects/P/notificationChannels/ID. Empty: incidents are only shown in the console."
  type        = list(string)
  default     = []
}

variable "max_system_lag_seconds" {
  description = "An event may wait or be worked on this long before there is an alert."
  type        = number
  default     = 120

  validation {
    condition     = var.max_system_lag_seconds > 0
    error_message = "max_system_lag_seconds must be more than 0."
  }
}

variable "max_dead_letters_per_minute" {
  description = "Dead letters a minute, over five minutes, above which there is an alert."
  type        = number
  default     = 60

  validation {
    condition     = var.max_dead_letters_per_minute >= 0
    error_message = "max_dead_letters_per_minute must not be negative."
  }
}
