# Recording rules, objectives and alerts, as in deploy/prometheus; `rules` is made of that. What a
# collector scrapes is the job of the service's name.

locals {
  rules = { for file in fileset("${path.module}/rules", "*.yml") : trimsuffix(file, ".yml") => file }

  # SNS topics that take alarms take these alerts too.
  alert_topics = concat(
    [for arn in var.alarm_actions : arn if can(regex("^arn:[a-z-]+:sns:", arn))],
    aws_sns_topic.alarms[*].arn,
  )
}

resource "aws_prometheus_rule_group_namespace" "this" {
  for_each = var.prometheus ? local.rules : {}

  name         = each.key
  workspace_id = aws_prometheus_workspace.this[0].id
  data         = replace(file("${path.module}/rules/${each.value}"), "job=\"fanlight\"", "job=\"${var.name}\"")
}

resource "aws_prometheus_alert_manager_definition" "this" {
  count = var.prometheus && (length(var.alarm_actions) > 0 || length(var.alarm_emails) > 0) ? 1 : 0

  workspace_id = aws_prometheus_workspace.this[0].id
  definition = yamlencode({
    alertmanager_config = yamlencode({
      route = {
        receiver        = "topics"
        group_by        = ["alertname", "severity"]
        group_wait      = "30s"
        group_interval  = "5m"
        repeat_interval = "12h"
      }
      receivers = [{
        name = "topics"
        sns_configs = [for arn in local.alert_topics : {
          topic_arn     = arn
          send_resolved = true
          sigv4         = { region = data.aws_region.current.region }
          subject       = "[{{ .CommonLabels.severity }}] {{ .CommonLabels.alertname }}"
        }]
      }]
    })
  })
}

# A policy of its own replaces the one that lets this account's alarms publish.
resource "aws_sns_topic_policy" "alarms" {
  count = length(var.alarm_emails) > 0 ? 1 : 0

  arn = aws_sns_topic.alarms[0].arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid       = "Alarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["sns:Publish"]
        Resource  = [aws_sns_topic.alarms[0].arn]
        Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
      }],
      [for workspace in aws_prometheus_workspace.this : {
        Sid       = "Alerts"
        Effect    = "Allow"
        Principal = { Service = "aps.amazonaws.com" }
        Action    = ["sns:Publish", "sns:GetTopicAttributes"]
        Resource  = [aws_sns_topic.alarms[0].arn]
        Condition = {
          ArnEquals    = { "aws:SourceArn" = workspace.arn }
          StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id }
        }
      }],
    )
  })
}
