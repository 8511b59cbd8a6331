locals {
  has_tls = var.certificate_arn != null
}

resource "aws_lb" "this" {
  name               = var.name
  load_balancer_type = "application"
  internal           = var.internal
  subnets            = var.subnet_ids
  security_groups    = [aws_security_group.this.id]

  idle_timeout               = var.idle_timeout_s
  enable_deletion_protection = var.deletion_protection
  # The gateway compares a page's Origin with the Host that the client asked for.
  preserve_host_header       = true
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"
  # The gateway takes a client's address from the last entry of X-Forwarded-For.
  xff_header_processing_mode = "append"

  dynamic "access_logs" {
    for_each = aws_s3_bucket.access_logs

    content {
      bucket  = access_logs.value.bucket
      enabled = true
    }
  }

  # Enabling logs checks that they can be written.
  depends_on = [aws_s3_bucket_policy.access_logs]
}

resource "aws_lb_target_group" "this" {
  name_prefix = "fl-"
  vpc_id      = var.vpc_id
  target_type = "ip"
  port        = var.port
  protocol    = "HTTP"
  # WebSockets reach targets by HTTP/1.1 only.
  protocol_version = "HTTP1"

  # New nodes get connections until they have as many as the others. Excludes slow start.
  load_balancing_algorithm_type = "least_outstanding_requests"
  deregistration_delay          = var.deregistration_delay_s

  health_check {
    path                = "/readyz"
    port                = "traffic-port"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  # Any node serves any request of any session.
  stickiness {
    type    = "lb_cookie"
    enabled = false
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "https" {
  count = local.has_tls ? 1 : 0

  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  certificate_arn   = var.certificate_arn
  ssl_policy        = var.ssl_policy

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type             = local.has_tls ? "redirect" : "forward"
    target_group_arn = local.has_tls ? null : aws_lb_target_group.this.arn

    dynamic "redirect" {
      for_each = local.has_tls ? [1] : []

      content {
        protocol    = "HTTPS"
        port        = "443"
        status_code = "HTTP_301"
      }
    }
  }
}

# Its way to the tasks is opened by the module `service`, which has their security group.
resource "aws_security_group" "this" {
  name_prefix = "${var.name}-alb-"
  description = "The load balancer of ${var.name}"
  vpc_id      = var.vpc_id

  tags = { Name = "${var.name}-alb" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  for_each = local.has_tls ? var.ingress_cidrs : []

  security_group_id = aws_security_group.this.id
  description       = "HTTPS from clients"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "http" {
  for_each = var.ingress_cidrs

  security_group_id = aws_security_group.this.id
  description       = local.has_tls ? "HTTP from clients, to be redirected" : "HTTP from clients"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}
