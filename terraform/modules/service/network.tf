# Both ends of every connection that tasks have.

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-tasks-"
  description = "The tasks of ${var.name}"
  vpc_id      = var.vpc_id

  tags = { Name = "${var.name}-tasks" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "load_balancer" {
  security_group_id            = aws_security_group.this.id
  description                  = "Clients and health checks, through the load balancer"
  referenced_security_group_id = var.load_balancer.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.load_balancer.target_port
  to_port                      = var.load_balancer.target_port
}

resource "aws_vpc_security_group_egress_rule" "load_balancer_to_tasks" {
  security_group_id            = var.load_balancer.security_group_id
  description                  = "To the tasks of ${var.name}"
  referenced_security_group_id = aws_security_group.this.id
  ip_protocol                  = "tcp"
  from_port                    = var.load_balancer.target_port
  to_port                      = var.load_balancer.target_port
}

resource "aws_vpc_security_group_ingress_rule" "admin" {
  for_each = var.admin_security_group_ids

  security_group_id            = aws_security_group.this.id
  description                  = "Metrics and drain, from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.admin_port
  to_port                      = local.admin_port
}

resource "aws_vpc_security_group_ingress_rule" "server_api" {
  for_each = var.server_api == null ? {} : var.server_api.client_security_group_ids

  security_group_id            = aws_security_group.this.id
  description                  = "The server API, from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = var.server_api.port
  to_port                      = var.server_api.port
}

resource "aws_vpc_security_group_egress_rule" "cache" {
  security_group_id            = aws_security_group.this.id
  description                  = "To the cache"
  referenced_security_group_id = var.cache.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.cache.port
  to_port                      = var.cache.port
}

resource "aws_vpc_security_group_ingress_rule" "cache_from_tasks" {
  security_group_id            = var.cache.security_group_id
  description                  = "From the tasks of ${var.name}"
  referenced_security_group_id = aws_security_group.this.id
  ip_protocol                  = "tcp"
  from_port                    = var.cache.port
  to_port                      = var.cache.port
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = var.https_egress_cidrs

  security_group_id = aws_security_group.this.id
  description       = "HTTPS: images, secrets, logs, keys of issuers"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
