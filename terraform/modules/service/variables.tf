variable "name" {
  description = "What everything is called; also the value of the dimension `Service` of the gateway's metrics."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name))
    error_message = "name must be 1-20 lower-case letters, digits and hyphens, a letter first."
  }
}

# Where it runs

variable "vpc_id" {
  description = "The VPC."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Private subnets for the tasks."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids must be subnets of at least two zones."
  }
}

variable "cluster_name" {
  description = "An ECS cluster that exists, with the capacity providers FARGATE and, if used, FARGATE_SPOT. Null: one is made."
  type        = string
  default     = null
}

variable "load_balancer" {
  description = "Outputs of the module `alb`, and the ranges from which it connects to tasks."
  type = object({
    target_group_arn  = string
    target_port       = optional(number, 8080)
    security_group_id = string
    cidrs             = list(string)
    idle_timeout_s    = optional(number, 120)
    unhealthy_after_s = optional(number, 30)
  })
  nullable = false

  validation {
    condition     = length(var.load_balancer.cidrs) > 0 && alltrue([for cidr in var.load_balancer.cidrs : can(cidrnetmask(cidr))])
    error_message = "load_balancer.cidrs must be IPv4 ranges: the gateway believes X-Forwarded-For from these alone."
  }

  validation {
    condition     = var.load_balancer.idle_timeout_s >= 60 && var.load_balancer.idle_timeout_s <= 280
    error_message = "load_balancer.idle_timeout_s must be from 60 to 280: a gateway ends each connection for requests after five minutes."
  }

  validation {
    condition     = var.load_balancer.unhealthy_after_s >= 10 && var.load_balancer.unhealthy_after_s <= 120
    error_message = "load_balancer.unhealthy_after_s must be from 10 to 120: the interval of the health check times the failures that it wants."
  }
}

variable "cache" {
  description = "Outputs of the module `cache`."
  type = object({
    url_secret_arn    = string
    security_group_id = string
    port              = optional(number, 6379)
  })
  nullable = false
}

variable "https_egress_cidrs" {
  description = "Where tasks may connect to by HTTPS: the registry of images, AWS' services, what you configure."
  type        = set(string)
  default     = ["0.0.0.0/0"]
  nullable    = false
}

variable "admin_security_group_ids" {
  description = <<-TEXT
    Who may reach the admin listener (9090): metrics, drain, who is connected, without a token. With
    none, it listens within the task only.
  TEXT
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "server_api" {
  description = <<-TEXT
    The server API, for backends in this VPC: whose security groups may reach it, and the keys that it
    asks for, by name, each in Secrets Manager (32 characters or more, as `ARN` or `ARN:key::`), with
    the scopes and destinations that it has; with none it may do all. `domain` is a private zone that
    is made for it: tasks are found at the output `server_api_url`. Null: there is none.
  TEXT
  type = object({
    client_security_group_ids = map(string)
    domain                    = string
    port                      = optional(number, 8081)
    keys = map(object({
      secret              = string
      scopes              = optional(list(string), [])
      destinations        = optional(list(string), [])
      requests_per_second = optional(number, 0)
    }))
  })
  default = null

  validation {
    condition     = var.server_api == null || length(try(var.server_api.client_security_group_ids, {})) > 0
    error_message = "server_api.client_security_group_ids must have who is to reach it."
  }

  validation {
    condition     = var.server_api == null || can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.server_api.domain))
    error_message = "server_api.domain must be a domain of two labels or more, as fanlight.internal."
  }

  validation {
    condition     = var.server_api == null || !contains([9090, var.load_balancer.target_port], try(var.server_api.port, 0))
    error_message = "server_api.port must be another than those of clients and of the admin listener."
  }

  validation {
    condition = var.server_api == null || length(try(var.server_api.keys, {})) > 0 && alltrue([
      for name, key in try(var.server_api.keys, {}) :
      can(regex("^arn:[a-z-]+:secretsmanager:[^:]+:[0-9]+:secret:[^:]+(:[^:]*:[^:]*:[^:]*)?$", key.secret))
    ])
    error_message = "server_api.keys must have at least one key, each with the ARN of a secret in Secrets Manager."
  }
}

# What runs

variable "image" {
  description = "The gateway's image, with a tag or, better, a digest."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]*)$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image must end in a tag or digest, and not in latest: a rollback would start the same."
  }
}

variable "ecr_repository_arns" {
  description = "The repositories in ECR that the images come from: the gateway's, and the collector's if it is mirrored. Empty: they are public."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "cpu_architecture" {
  description = "`ARM64` costs a fifth less; `X86_64` for images that have nothing else."
  type        = string
  default     = "ARM64"
  nullable    = false

  validation {
    condition     = contains(["ARM64", "X86_64"], var.cpu_architecture)
    error_message = "cpu_architecture must be ARM64 or X86_64."
  }
}

variable "cpu" {
  description = "CPU units of a task, 1024 a vCPU."
  type        = number
  default     = 2048
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "cpu must be what Fargate has: 256, 512, 1024, 2048, 4096, 8192 or 16384."
  }
}

variable "memory_mib" {
  description = "Memory of a task."
  type        = number
  default     = 4096
  nullable    = false

  validation {
    condition = contains(lookup({
      256   = [512, 1024, 2048]
      512   = range(1024, 4097, 1024)
      1024  = range(2048, 8193, 1024)
      2048  = range(4096, 16385, 1024)
      4096  = range(8192, 30721, 1024)
      8192  = range(16384, 61441, 4096)
      16384 = range(32768, 122881, 8192)
    }, var.cpu, []), var.memory_mib)
    error_message = "memory_mib must be what Fargate has for this cpu, as 4096 to 16384 by 1024 for 2048."
  }
}

variable "environment" {
  description = "Options of the gateway: `FANLIGHT__...` and their values, see docs/configuration.md."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : startswith(name, "FANLIGHT_")])
    error_message = "environment must have names that begin with FANLIGHT_."
  }
}

variable "secrets" {
  description = "Secret options of the gateway: `FANLIGHT__...` and the secret in Secrets Manager, as `ARN` or `ARN:key::`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([
      for name, arn in var.secrets :
      startswith(name, "FANLIGHT_") && can(regex("^arn:[a-z-]+:secretsmanager:[^:]+:[0-9]+:secret:[^:]+(:[^:]*:[^:]*:[^:]*)?$", arn))
    ])
    error_message = "secrets must have names that begin with FANLIGHT_ and ARNs of Secrets Manager."
  }
}

variable "kms_key_arns" {
  description = "KMS keys of your own that the secrets are encrypted with."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "nofile" {
  description = "Open files of the gateway: one a connection. Fargate's default is 65535."
  type        = number
  default     = 200000
  nullable    = false

  validation {
    condition     = var.nofile >= 32768 && var.nofile <= 1048576
    error_message = "nofile must be from 32768 to 1048576."
  }
}

variable "stop_timeout_s" {
  description = <<-TEXT
    From SIGTERM to SIGKILL. `drain.shutdown_timeout` is 5 s less, and a third of that is the most
    that `drain.grace` gets after SIGTERM. Fargate has 120 at most.
  TEXT
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.stop_timeout_s >= 30 && var.stop_timeout_s <= 120
    error_message = "stop_timeout_s must be from 30 to 120."
  }
}

variable "task_protection" {
  description = <<-TEXT
    Whether a task is protected from scale-in and deployments while it has sessions
    (`drain.ecs_task_protection`). Both then wait until something of yours has drained it: a
    deployment does not end by itself.
  TEXT
  type        = bool
  default     = false
  nullable    = false
}

variable "rebalance" {
  description = <<-TEXT
    Whether tasks that have more sessions than others give some away, as after scaling out
    (`rebalance.enabled`). Only behind a load balancer that prefers the task with the fewest
    connections, as the module `alb` makes it.
  TEXT
  type        = bool
  default     = false
  nullable    = false
}

variable "execute_command" {
  description = "Whether ECS Exec can run `fanlight` commands in the gateway's container, as `fanlight doctor`. Its root is then writable."
  type        = bool
  default     = false
  nullable    = false
}

# How many

variable "scaling" {
  description = <<-TEXT
    How many tasks: from `min` to `max`, so that each has `connections_per_task` on average and uses
    `cpu_percent`, whichever takes more. `connections_per_task` is 60-70 % of what a task was
    measured to carry. Beyond `connections_limit` (`limits.connections`) a task refuses with 503; by
    default that is where `connections_per_task` is 60 % of it, and at most 90 % of `nofile`. For a
    fixed number, let `min` and `max` be the same.
  TEXT
  type = object({
    min                  = optional(number, 3)
    max                  = optional(number, 12)
    connections_per_task = optional(number, 30000)
    connections_limit    = optional(number)
    cpu_percent          = optional(number, 60)
    scale_out_cooldown_s = optional(number, 60)
    scale_in_cooldown_s  = optional(number, 900)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.scaling.min >= 1 && var.scaling.max >= var.scaling.min
    error_message = "scaling.min must be at least 1, and scaling.max at least scaling.min."
  }

  validation {
    condition     = var.scaling.connections_per_task >= 1 && var.scaling.connections_per_task <= min(var.nofile * 0.7, var.nofile - local.other_files - 1)
    error_message = "scaling.connections_per_task must be at most 70 % of nofile, with ${local.other_files} files left for what is no session."
  }

  validation {
    condition = (
      coalesce(var.scaling.connections_limit, var.scaling.connections_per_task + 1) > var.scaling.connections_per_task
      && coalesce(var.scaling.connections_limit, 0) <= min(var.nofile * 0.9, var.nofile - local.other_files)
    )
    error_message = "scaling.connections_limit must be above connections_per_task, and at most 90 % of nofile, with ${local.other_files} files left for what is no session."
  }

  validation {
    condition     = var.scaling.cpu_percent >= 10 && var.scaling.cpu_percent <= 90
    error_message = "scaling.cpu_percent must be from 10 to 90."
  }
}

variable "spot" {
  description = <<-TEXT
    Fargate Spot: `percent` of the tasks beyond the first `on_demand_base`. Spot tasks are taken away
    with two minutes' notice, so their sessions move within `stop_timeout_s`.
  TEXT
  type = object({
    percent        = number
    on_demand_base = optional(number, 2)
  })
  default  = { percent = 0 }
  nullable = false

  validation {
    condition     = var.spot.percent >= 0 && var.spot.percent <= 100 && floor(var.spot.percent) == var.spot.percent
    error_message = "spot.percent must be a whole number from 0 to 100."
  }

  validation {
    condition     = var.spot.percent < 100 || var.spot.on_demand_base >= 1
    error_message = "spot.on_demand_base must be at least 1 where all others are on Spot: it may have none left."
  }
}

# What is seen of it

variable "prometheus" {
  description = <<-TEXT
    Where a collector beside the gateway writes its metrics: a workspace of Managed Prometheus (output
    `prometheus` of the module `observability`). Null: no collector.
  TEXT
  type = object({
    workspace_arn    = string
    remote_write_url = string
  })
  default = null
}

variable "collector_image" {
  description = "The collector, AWS' Distro for OpenTelemetry, that runs beside the gateway where `prometheus` or `traces` ask for it."
  type        = string
  default     = "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3"
  nullable    = false
}

variable "traces" {
  description = <<-TEXT
    Whether the gateway sends spans (`telemetry.traces`), and how many. Without `endpoint` they go to
    X-Ray, by a collector beside the gateway. With it they go there, by OTLP over HTTP: a collector of
    yours, or a vendor's endpoint, by `https`, in `https_egress_cidrs`, which must be there. A key that
    it asks for goes into `secrets` as `FANLIGHT__TELEMETRY__TRACES__HEADERS`. Null: there are no traces.
  TEXT
  type = object({
    endpoint                = optional(string)
    publication_ratio       = optional(number, 0.01)
    publications_per_second = optional(number, 100)
    connection_ratio        = optional(number, 0.01)
  })
  default = null

  validation {
    condition     = try(var.traces.endpoint, null) == null || can(regex("^https://[A-Za-z0-9.-]+(:443)?(/[^ ?#]*)?$", var.traces.endpoint))
    error_message = "traces.endpoint must be https://HOST or https://HOST/PATH, at port 443, to which tasks may connect."
  }

  validation {
    condition = var.traces == null || alltrue([
      for ratio in [try(var.traces.publication_ratio, 0), try(var.traces.connection_ratio, 0)] : ratio >= 0 && ratio <= 1
    ])
    error_message = "traces.publication_ratio and traces.connection_ratio must be from 0 to 1."
  }
}

variable "container_insights" {
  description = "Container Insights of a cluster that is made here: `enabled`, `enhanced` or `disabled`."
  type        = string
  default     = "enabled"
  nullable    = false

  validation {
    condition     = contains(["enabled", "enhanced", "disabled"], var.container_insights)
    error_message = "container_insights must be enabled, enhanced or disabled."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 365
  nullable    = false
}

variable "log_kms_key_arn" {
  description = "The KMS key of the logs. Null: CloudWatch's own."
  type        = string
  default     = null
}
