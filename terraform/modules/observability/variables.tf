variable "name" {
  description = "What everything is called; the value of the dimension `Service` of the gateway's metrics."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name))
    error_message = "name must be 1-20 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "load_balancer" {
  description = "The load balancer and its target group, as CloudWatch's metrics call them: outputs of the module `alb`."
  type = object({
    arn_suffix              = string
    target_group_arn_suffix = string
  })
  nullable = false
}

variable "service" {
  description = "The ECS service, outputs of the module `service`, and the least number of tasks that run."
  type = object({
    cluster_name = string
    service_name = string
    min_tasks    = number
  })
  nullable = false

  validation {
    condition     = var.service.min_tasks >= 1
    error_message = "service.min_tasks must be at least 1."
  }
}

variable "cache_node_ids" {
  description = "The nodes of the cache: output `node_ids` of the module `cache`."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.cache_node_ids) > 0
    error_message = "cache_node_ids must have the cache's nodes."
  }
}

variable "thresholds" {
  description = "Beyond what the alarms go off: counts are of five minutes, shares are percent."
  type = object({
    load_balancer_5xx        = optional(number, 50)
    target_5xx               = optional(number, 50)
    target_connection_errors = optional(number, 20)
    task_cpu_percent         = optional(number, 85)
    task_memory_percent      = optional(number, 85)
    delivery_lag_ms          = optional(number, 1000)
    cache_cpu_percent        = optional(number, 75)
    cache_memory_percent     = optional(number, 75)
    cache_replication_lag_s  = optional(number, 5)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name, value in var.thresholds : value > 0 && (!endswith(name, "_percent") || value < 100)])
    error_message = "thresholds must be over 0, and those in percent under 100."
  }
}

variable "alarm_actions" {
  description = "What alarms call: ARNs, as of SNS topics that are there."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "alarm_emails" {
  description = "Addresses that alarms are sent to, by an SNS topic that is made for them. Each has to confirm."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "alarm_emails must be addresses."
  }
}

variable "dashboard" {
  description = "Whether to make a dashboard in CloudWatch."
  type        = bool
  default     = true
  nullable    = false
}

variable "prometheus" {
  description = "Whether to make a workspace of Managed Prometheus. The module `service` then writes to it."
  type        = bool
  default     = false
  nullable    = false
}

variable "grafana" {
  description = <<-TEXT
    Whether to make a workspace of Managed Grafana that may read Managed Prometheus and CloudWatch.
    Users come from IAM Identity Center, which the account must have.
  TEXT
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.grafana || var.prometheus
    error_message = "grafana needs prometheus: there would be nothing to see."
  }
}

variable "log_retention_days" {
  description = "How long the log of Managed Prometheus is kept."
  type        = number
  default     = 365
  nullable    = false
}

variable "kms_key_arn" {
  description = <<-TEXT
    The KMS key of the topic, of Managed Prometheus and its log. Its policy must let CloudWatch,
    SNS and Managed Prometheus (`aps.amazonaws.com`) use it. Null: AWS' own, and none for the topic.
  TEXT
  type        = string
  default     = null
}
