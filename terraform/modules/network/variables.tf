variable "name" {
  description = "What everything is called: lower-case letters, digits and hyphens."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name))
    error_message = "name must be 1-20 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "cidr" {
  description = "The VPC's range, from /16 to /19. A sixteenth of it goes to each zone's private subnet."
  type        = string
  default     = "10.20.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.cidr)) && contains([16, 17, 18, 19], try(tonumber(split("/", var.cidr)[1]), 0))
    error_message = "cidr must be an IPv4 range from /16 to /19: a 256th of it is a public subnet, and a load balancer needs /27."
  }
}

variable "zone_count" {
  description = "Over how many availability zones to spread."
  type        = number
  default     = 3
  nullable    = false

  validation {
    condition     = contains([2, 3, 4, 5, 6], var.zone_count)
    error_message = "zone_count must be from 2 to 6: a load balancer needs two zones."
  }
}

variable "egress" {
  description = <<-TEXT
    How tasks reach what is outside: `nat_per_zone` survives the loss of any zone, `single_nat` is
    cheaper and ends with its zone, `endpoints` has no way out but to the AWS services tasks need.
  TEXT
  type        = string
  default     = "nat_per_zone"
  nullable    = false

  validation {
    condition     = contains(["nat_per_zone", "single_nat", "endpoints"], var.egress)
    error_message = "egress must be nat_per_zone, single_nat or endpoints."
  }
}

variable "interface_endpoints" {
  description = <<-TEXT
    With `egress = "endpoints"`: the AWS services that get an interface endpoint. The default is
    what a task needs to start, to log and to see that it is taken out; add `aps-workspaces` for
    Managed Prometheus, `xray` for X-Ray, `ssmmessages` for ECS Exec.
  TEXT
  type        = set(string)
  default     = ["ecr.api", "ecr.dkr", "elasticloadbalancing", "logs", "secretsmanager"]
  nullable    = false
}

variable "flow_logs" {
  description = "Which traffic the VPC's flow logs record: `REJECT`, `ALL` (dear with many clients) or `NONE`."
  type        = string
  default     = "REJECT"
  nullable    = false

  validation {
    condition     = contains(["REJECT", "ALL", "NONE"], var.flow_logs)
    error_message = "flow_logs must be REJECT, ALL or NONE."
  }
}

variable "log_retention_days" {
  description = "How long flow logs are kept."
  type        = number
  default     = 365
  nullable    = false
}

variable "kms_key_arn" {
  description = "The KMS key of the flow logs. Null: CloudWatch's own."
  type        = string
  default     = null
}
