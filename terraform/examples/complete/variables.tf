variable "region" {
  description = "The Region."
  type        = string
  nullable    = false
}

variable "name" {
  description = "What everything is called."
  type        = string
  default     = "fanlight"
  nullable    = false
}

variable "tags" {
  description = "Tags of everything, besides `Application`."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "image" {
  description = "The gateway's image, by tag or digest. With `egress = \"endpoints\"` in ECR."
  type        = string
  nullable    = false

  validation {
    condition     = var.egress != "endpoints" || can(regex(local.in_ecr, var.image))
    error_message = "image must be in ECR of this Region with egress = \"endpoints\", which reaches no other registry: push it there, and put the repository into ecr_repository_arns."
  }
}

variable "collector_image" {
  description = "The collector's image, which runs where `prometheus` or X-Ray ask for it. Null: AWS' own, from `public.ecr.aws`. With `egress = \"endpoints\"` a mirror in ECR."
  type        = string
  default     = null

  validation {
    condition     = var.egress != "endpoints" || !(var.prometheus || local.to_xray) || can(regex(local.in_ecr, var.collector_image))
    error_message = "collector_image must be in ECR of this Region with egress = \"endpoints\", which does not reach public.ecr.aws: mirror the collector there, and put its repository into ecr_repository_arns."
  }
}

variable "ecr_repository_arns" {
  description = "The repositories in ECR that the images come from: the gateway's, and the collector's if it is mirrored. Empty: they are public."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = var.egress != "endpoints" || alltrue([
      for image in compact([var.image, var.prometheus || local.to_xray ? var.collector_image : null]) :
      anytrue([for arn in var.ecr_repository_arns : endswith(arn, ":repository/${try(regex(local.in_ecr, image)[1], "")}")])
    ])
    error_message = "ecr_repository_arns must have the repository of image, and that of collector_image, with egress = \"endpoints\"."
  }
}

variable "certificate_arn" {
  description = "The certificate in ACM that clients see."
  type        = string
  nullable    = false
}

variable "domain" {
  description = "A name in a hosted zone of Route 53 that leads to the load balancer. Null: make a record yourself."
  type = object({
    zone_id = string
    name    = string
  })
  default = null
}

variable "jwt_public_key_pem" {
  description = "The public key, as PEM, of those who sign clients' tokens by ES256."
  type        = string
  nullable    = false

  validation {
    condition     = startswith(var.jwt_public_key_pem, "-----BEGIN PUBLIC KEY-----")
    error_message = "jwt_public_key_pem must be a public key as PEM: it begins with -----BEGIN PUBLIC KEY-----."
  }
}

variable "allowed_origins" {
  description = "Whose pages may connect."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "server_api_clients" {
  description = "Security groups of backends in this network that may reach the server API, by name: add them once the network is there. Empty: there is none."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "egress" {
  description = "How tasks reach what is outside: `nat_per_zone`, `single_nat`, or `endpoints`, which reaches AWS' services only."
  type        = string
  default     = "nat_per_zone"
  nullable    = false
}

variable "scaling" {
  description = "How many tasks, see the module `service`."
  type = object({
    min                  = optional(number, 3)
    max                  = optional(number, 12)
    connections_per_task = optional(number, 30000)
    connections_limit    = optional(number)
  })
  default  = {}
  nullable = false
}

variable "rebalance" {
  description = "Whether sessions move to tasks that have fewer, as after scaling out."
  type        = bool
  default     = true
  nullable    = false
}

variable "spot_percent" {
  description = "The share of tasks beyond the first two on Fargate Spot."
  type        = number
  default     = 0
  nullable    = false
}

variable "cache" {
  description = "The cache's size, and which of its passwords is in use: see the module `cache`."
  type = object({
    node_type           = optional(string, "cache.r7g.large")
    shards              = optional(number, 2)
    replicas_per_shard  = optional(number, 1)
    password_generation = optional(number, 0)
  })
  default  = {}
  nullable = false
}

variable "waf" {
  description = "Whether a web ACL is before the load balancer."
  type        = bool
  default     = false
  nullable    = false
}

variable "access_logs" {
  description = "Whether the load balancer writes access logs."
  type        = bool
  default     = false
  nullable    = false
}

variable "prometheus" {
  description = "Whether metrics go to Managed Prometheus."
  type        = bool
  default     = false
  nullable    = false
}

variable "traces" {
  description = "Spans: `{}` sends them to X-Ray, `{ endpoint = \"https://otlp.example.com\" }` there, by OTLP over HTTPS; the module `service` says what else. Null: there are none."
  type = object({
    endpoint                = optional(string)
    publication_ratio       = optional(number, 0.01)
    publications_per_second = optional(number, 100)
    connection_ratio        = optional(number, 0.01)
  })
  default = null

  validation {
    condition     = var.egress != "endpoints" || try(var.traces.endpoint, null) == null
    error_message = "traces.endpoint can't be reached with egress = \"endpoints\": leave it out, and spans go to X-Ray, or take nat_per_zone or single_nat."
  }
}

variable "grafana" {
  description = "Whether there is a Managed Grafana to see them."
  type        = bool
  default     = false
  nullable    = false
}

variable "alarm_emails" {
  description = "Whom alarms are sent to."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether load balancer and cache are kept from being deleted by mistake: off only to take all down."
  type        = bool
  default     = true
  nullable    = false
}
