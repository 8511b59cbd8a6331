variable "name" {
  description = "What everything is called."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name))
    error_message = "name must be 1-20 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Where the load balancer is: public subnets of at least two zones, private ones if `internal`."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids must be subnets of at least two zones."
  }
}

variable "internal" {
  description = "Whether the load balancer has private addresses only."
  type        = bool
  default     = false
  nullable    = false
}

variable "ingress_cidrs" {
  description = "Where clients may come from."
  type        = set(string)
  default     = ["0.0.0.0/0"]
  nullable    = false

  validation {
    condition     = length(var.ingress_cidrs) > 0 && alltrue([for cidr in var.ingress_cidrs : can(cidrnetmask(cidr))])
    error_message = "ingress_cidrs must be IPv4 ranges, at least one."
  }
}

variable "certificate_arn" {
  description = "The certificate in ACM. With it, HTTPS is served on 443, and 80 redirects there."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null ? var.allow_plain_http : can(regex("^arn:[a-z-]+:acm:", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of a certificate in ACM; to do without TLS, set allow_plain_http."
  }
}

variable "allow_plain_http" {
  description = "Whether to serve HTTP on 80 if there is no certificate. Tokens then travel in the clear."
  type        = bool
  default     = false
  nullable    = false
}

variable "ssl_policy" {
  description = "Which versions and ciphers of TLS are spoken. The default has TLS 1.2 and 1.3."
  type        = string
  default     = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  nullable    = false

  validation {
    condition     = can(regex("^ELBSecurityPolicy-TLS13-1-[23]-", var.ssl_policy))
    error_message = "ssl_policy must be one of ELB's policies with TLS 1.3 whose oldest version is 1.2 or 1.3."
  }
}

variable "port" {
  description = "The port of the gateway's public listener."
  type        = number
  default     = 8080
  nullable    = false
}

variable "idle_timeout_s" {
  description = <<-TEXT
    How long a connection may be silent, in seconds: well over the heartbeats of both protocols and
    over `poll.max_wait`. Also how long the load balancer keeps an idle connection to a task, which
    a task ends itself after five minutes.
  TEXT
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.idle_timeout_s >= 120 && var.idle_timeout_s <= 280
    error_message = "idle_timeout_s must be from 120 to 280."
  }
}

variable "deregistration_delay_s" {
  description = <<-TEXT
    How long connections to a target that was taken out may go on, in seconds: longer than
    `drain.watch_interval`, `drain.grace`, `drain.window` and `drain.deadline` together, which are
    290 s as the module `service` sets them.
  TEXT
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.deregistration_delay_s >= 30 && var.deregistration_delay_s <= 3600
    error_message = "deregistration_delay_s must be from 30 to 3600."
  }
}

variable "deletion_protection" {
  description = "Whether the load balancer refuses to be deleted."
  type        = bool
  default     = true
  nullable    = false
}

variable "access_logs" {
  description = <<-TEXT
    Access logs, in a bucket that is made for them. A WebSocket is one line, when it ends. Null: none.
    The query string is logged, and so are tokens in it (`auth.query`).
  TEXT
  type = object({
    retention_days = optional(number, 30)
  })
  default = null
}

variable "waf" {
  description = <<-TEXT
    A web ACL. Null: none. WAF sees requests, so of a WebSocket only the upgrade. `requests_per_ip` is
    within five minutes; clients that poll make many, and so do offices behind one address.
    `common_rules` adds Amazon's core rule set, with what would refuse lawful messages and tokens
    only counted.
  TEXT
  type = object({
    requests_per_ip = optional(number, 10000)
    common_rules    = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.waf == null ? true : var.waf.requests_per_ip >= 10 && var.waf.requests_per_ip <= 2000000000
    error_message = "waf.requests_per_ip must be from 10 to 2000000000."
  }
}
