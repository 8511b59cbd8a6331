variable "name" {
  description = "What everything is called."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 20
    error_message = "name must be 1-20 lower-case letters, digits and single hyphens, a letter first."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Private subnets of at least two zones."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids must be subnets of at least two zones: replicas take over from masters in others."
  }
}

variable "node_type" {
  description = "The type of every node. Burstable ones (t3, t4g) are for trying out."
  type        = string
  default     = "cache.r7g.large"
  nullable    = false

  validation {
    condition     = can(regex("^cache\\.[a-z0-9]+\\.[a-z0-9]+$", var.node_type))
    error_message = "node_type must be a type of ElastiCache, as in cache.r7g.large."
  }
}

variable "engine_version" {
  description = "The version of Valkey. Sharded pub/sub came with Redis 7, so all of them have it."
  type        = string
  default     = "8.1"
  nullable    = false

  validation {
    condition     = can(regex("^(7\\.2|8\\.[0-9])$", var.engine_version))
    error_message = "engine_version must be Valkey 7.2 or 8, as in 8.1."
  }
}

variable "shards" {
  description = "How many masters. Channels and keys are spread over them."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.shards >= 1 && var.shards <= 90 && floor(var.shards) == var.shards
    error_message = "shards must be from 1 to 90."
  }
}

variable "replicas_per_shard" {
  description = "How many replicas each master has."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = contains([1, 2, 3, 4, 5], var.replicas_per_shard)
    error_message = "replicas_per_shard must be from 1 to 5: without one, a failed master takes its part of all messages with it."
  }
}

variable "pubsub_buffer" {
  description = <<-TEXT
    How far a subscriber may fall behind before it is cut off: `hard_mib` at once, `soft_mib` for
    `soft_s`. ElastiCache's defaults (32, 8, 60) cut nodes off in bursts.
  TEXT
  type = object({
    hard_mib = optional(number, 256)
    soft_mib = optional(number, 64)
    soft_s   = optional(number, 60)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.pubsub_buffer.hard_mib >= 32 && var.pubsub_buffer.soft_mib >= 8 && var.pubsub_buffer.soft_mib <= var.pubsub_buffer.hard_mib
    error_message = "pubsub_buffer must be at least ElastiCache's defaults (32 and 8 MiB), and soft_mib not over hard_mib."
  }
}

variable "password_generation" {
  description = <<-TEXT
    Counts rotations. Raising it by one makes a new password and keeps the last one good, so that
    tasks that have it go on until they are replaced.
  TEXT
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.password_generation >= 0 && floor(var.password_generation) == var.password_generation
    error_message = "password_generation must be a whole number from 0."
  }
}

variable "snapshot_retention_days" {
  description = "For how many days daily snapshots are kept. 0: none are made."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.snapshot_retention_days >= 0 && var.snapshot_retention_days <= 35
    error_message = "snapshot_retention_days must be from 0 to 35."
  }
}

variable "final_snapshot" {
  description = "Whether a last snapshot is made when the cluster is deleted: `NAME-final-` and eight digits that are this cluster's own."
  type        = bool
  default     = true
  nullable    = false
}

variable "maintenance_window" {
  description = "When AWS may replace nodes, in UTC."
  type        = string
  default     = "sun:04:00-sun:06:00"
  nullable    = false
}

variable "apply_immediately" {
  description = "Whether changes don't wait for the maintenance window."
  type        = bool
  default     = false
  nullable    = false
}

variable "log_retention_days" {
  description = "How long the slow log is kept."
  type        = number
  default     = 365
  nullable    = false
}

variable "kms_key_arn" {
  description = "The KMS key of data, secret and log. Null: AWS' own."
  type        = string
  default     = null
}
