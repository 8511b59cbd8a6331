mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::fanlight-alb-logs-1" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl-1/1" }
  }
}

variables {
  name            = "fanlight"
  vpc_id          = "vpc-1"
  subnet_ids      = ["subnet-1", "subnet-2"]
  certificate_arn = "arn:aws:acm:eu-west-1:123456789012:certificate/1"
}

run "connections_may_live_long" {
  command = apply

  assert {
    condition     = aws_lb.this.idle_timeout == 120
    error_message = "a connection with a heartbeat every 25 s is never idle"
  }
  assert {
    condition     = aws_lb.this.enable_deletion_protection && aws_lb.this.drop_invalid_header_fields
    error_message = "the load balancer is protected, and drops what is no header"
  }
  assert {
    condition     = aws_lb_target_group.this.load_balancing_algorithm_type == "least_outstanding_requests" && aws_lb_target_group.this.slow_start == null
    error_message = "the node with the fewest connections gets the next, which excludes slow start"
  }
  assert {
    condition     = aws_lb_target_group.this.target_type == "ip"
    error_message = "Fargate has no other targets"
  }
  assert {
    condition     = !aws_lb_target_group.this.stickiness[0].enabled
    error_message = "no stickiness"
  }
  assert {
    condition     = aws_lb_target_group.this.protocol_version == "HTTP1"
    error_message = "WebSockets reach targets by HTTP/1.1"
  }
}

run "readiness_decides_who_gets_connections" {
  command = plan

  assert {
    condition = (
      aws_lb_target_group.this.health_check[0].path == "/readyz"
      && aws_lb_target_group.this.health_check[0].port == "traffic-port"
      && aws_lb_target_group.this.health_check[0].interval == 10
      && aws_lb_target_group.this.health_check[0].matcher == "200"
    )
    error_message = "readiness is asked every 10 s, on the public port"
  }
}

run "a_drain_is_noticed_and_fits_into_the_deregistration_delay" {
  command = apply

  assert {
    condition     = output.unhealthy_after_s == 30
    error_message = "three checks that fail, 10 s apart"
  }
  assert {
    # The grace that the module service makes of it, drain.window and drain.deadline.
    condition     = tonumber(aws_lb_target_group.this.deregistration_delay) > 10 + (output.unhealthy_after_s + 5) + 240 + 5
    error_message = "nobody is cut whom the drain would have closed"
  }
}

run "clients_speak_tls" {
  command = apply

  assert {
    condition     = aws_lb_listener.https[0].port == 443 && aws_lb_listener.https[0].ssl_policy == "ELBSecurityPolicy-TLS13-1-2-2021-06"
    error_message = "HTTPS by TLS 1.2 or 1.3"
  }
  assert {
    condition     = aws_lb_listener.https[0].default_action[0].target_group_arn == aws_lb_target_group.this.arn
    error_message = "HTTPS goes to the nodes"
  }
  assert {
    condition = (
      aws_lb_listener.http.default_action[0].type == "redirect"
      && aws_lb_listener.http.default_action[0].redirect[0].status_code == "HTTP_301"
      && aws_lb_listener.http.default_action[0].target_group_arn == null
    )
    error_message = "HTTP is redirected, never forwarded"
  }
  assert {
    condition     = length(aws_s3_bucket.access_logs) == 0 && length(aws_wafv2_web_acl.this) == 0
    error_message = "logs and WAF are for those who ask"
  }
}

run "plain_http_only_if_asked_for" {
  command = plan

  variables {
    certificate_arn  = null
    allow_plain_http = true
    ingress_cidrs    = ["10.0.0.0/8"]
    internal         = true
  }

  assert {
    condition     = length(aws_lb_listener.https) == 0 && aws_lb_listener.http.default_action[0].type == "forward"
    error_message = "HTTP goes to the nodes"
  }
  assert {
    condition     = keys(aws_vpc_security_group_ingress_rule.http) == ["10.0.0.0/8"] && length(aws_vpc_security_group_ingress_rule.https) == 0
    error_message = "only port 80, from the given range"
  }
}

run "access_logs_are_written_by_the_load_balancer_alone" {
  command = apply

  variables {
    access_logs = { retention_days = 14 }
  }

  assert {
    condition     = aws_lb.this.access_logs[0].bucket == aws_s3_bucket.access_logs[0].bucket && aws_lb.this.access_logs[0].enabled
    error_message = "logs go to the bucket"
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.access_logs[0].rule[0].expiration[0].days == 14
    error_message = "and are gone after 14 days"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_s3_bucket_policy.access_logs[0].policy).Statement :
      [statement.Action, statement.Resource] if statement.Effect == "Allow"
    ] == [["s3:PutObject", "arn:aws:s3:::fanlight-alb-logs-1/AWSLogs/123456789012/*"]]
    error_message = "the load balancer may write this account's logs, and nobody anything else"
  }
}

run "waf_refuses_floods_but_no_messages" {
  command = plan

  variables {
    waf = { requests_per_ip = 5000 }
  }

  assert {
    condition = one([
      for rule in aws_wafv2_web_acl.this[0].rule :
      rule.statement[0].rate_based_statement[0].limit if rule.name == "requests-per-ip"
    ]) == 5000
    error_message = "5000 requests of one address in five minutes"
  }
  assert {
    condition = toset(flatten([
      for rule in aws_wafv2_web_acl.this[0].rule :
      rule.statement[0].managed_rule_group_statement[0].rule_action_override[*].name if rule.name == "common"
    ])) == toset(local.counted_rules)
    error_message = "rules about bodies, long queries and missing user agents only count"
  }
}

run "what_can_not_be_is_refused" {
  command = plan

  variables {
    name                   = "a-name-of-more-than-twenty"
    subnet_ids             = ["subnet-1"]
    certificate_arn        = null
    ingress_cidrs          = ["everywhere"]
    ssl_policy             = "ELBSecurityPolicy-2016-08"
    idle_timeout_s         = 60
    deregistration_delay_s = 0
    waf                    = { requests_per_ip = 1 }
  }

  expect_failures = [
    var.name,
    var.subnet_ids,
    var.certificate_arn,
    var.ingress_cidrs,
    var.ssl_policy,
    var.idle_timeout_s,
    var.deregistration_delay_s,
    var.waf,
  ]
}
