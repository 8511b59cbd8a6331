mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-west-1" }
  }
  mock_resource "aws_prometheus_workspace" {
    defaults = {
      arn                 = "arn:aws:aps:eu-west-1:123456789012:workspace/ws-1"
      prometheus_endpoint = "https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1/"
    }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-west-1:123456789012:fanlight-alarms" }
  }
}

variables {
  name           = "fanlight"
  load_balancer  = { arn_suffix = "app/fanlight/1", target_group_arn_suffix = "targetgroup/fl-1/1" }
  service        = { cluster_name = "fanlight", service_name = "fanlight", min_tasks = 3 }
  cache_node_ids = ["fanlight-0001-001", "fanlight-0001-002"]
}

run "what_can_go_wrong_has_an_alarm" {
  command = plan

  assert {
    condition = toset([for alarm in aws_cloudwatch_metric_alarm.this : "${alarm.namespace} ${alarm.metric_name}"]) == toset([
      "AWS/ApplicationELB HTTPCode_ELB_5XX_Count",
      "AWS/ApplicationELB HTTPCode_Target_5XX_Count",
      "AWS/ApplicationELB RejectedConnectionCount",
      "AWS/ApplicationELB TargetConnectionErrorCount",
      "AWS/ApplicationELB UnHealthyHostCount",
      "AWS/ECS CPUUtilization",
      "AWS/ECS MemoryUtilization",
      "AWS/ElastiCache DatabaseMemoryUsagePercentage",
      "AWS/ElastiCache EngineCPUUtilization",
      "AWS/ElastiCache Evictions",
      "AWS/ElastiCache ReplicationLag",
      "ECS/ContainerInsights RunningTaskCount",
      "Fanlight Connections",
      "Fanlight DeliveryLagP99",
    ])
    error_message = "these alarms"
  }
  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["unhealthy-nodes"].dimensions == tomap({ LoadBalancer = "app/fanlight/1", TargetGroup = "targetgroup/fl-1/1" })
      && aws_cloudwatch_metric_alarm.this["cache-evictions-fanlight-0001-002"].dimensions == tomap({ CacheClusterId = "fanlight-0001-002" })
    )
    error_message = "of this load balancer, and of each node of the cache"
  }
  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["tasks-missing"].comparison_operator == "LessThanThreshold"
      && aws_cloudwatch_metric_alarm.this["tasks-missing"].threshold == 3
      && aws_cloudwatch_metric_alarm.this["tasks-missing"].treat_missing_data == "breaching"
    )
    error_message = "fewer than three tasks, or none that tells"
  }
  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["connections-untold"].dimensions == tomap({ Service = "fanlight" })
      && aws_cloudwatch_metric_alarm.this["connections-untold"].treat_missing_data == "breaching"
    )
    error_message = "scaling that has gone blind is told"
  }
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : length(alarm.alarm_description) > 20])
    error_message = "each says what it means"
  }
}

run "alarms_reach_people" {
  command = apply

  variables {
    alarm_actions = ["arn:aws:sns:eu-west-1:123456789012:pager"]
    alarm_emails  = ["ops@example.com"]
  }

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.this :
      alarm.alarm_actions == toset(["arn:aws:sns:eu-west-1:123456789012:pager", "arn:aws:sns:eu-west-1:123456789012:fanlight-alarms"])
    ])
    error_message = "by the topic that is there and by the one that is made"
  }
  assert {
    condition     = aws_sns_topic_subscription.emails["ops@example.com"].protocol == "email"
    error_message = "who is subscribed to the latter"
  }
}

run "the_dashboard_has_a_place_for_each_panel" {
  command = plan

  assert {
    condition = length(distinct([
      for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : [widget.x, widget.y]
    ])) == length(local.panels)
    error_message = "no panel is on another"
  }
  assert {
    condition = contains(
      flatten([for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : [for metric in widget.properties.metrics : join(" ", metric)]]),
      "AWS/ApplicationELB HealthyHostCount LoadBalancer app/fanlight/1 TargetGroup targetgroup/fl-1/1",
    )
    error_message = "a metric is a flat list"
  }
}

run "prometheus_and_grafana_are_for_those_who_ask" {
  command = plan

  assert {
    condition     = output.prometheus == null && length(aws_prometheus_workspace.this) == 0 && length(aws_iam_role.grafana) == 0
    error_message = "neither, nor a role"
  }
}

run "every_rule_that_is_shipped_is_in_the_workspace" {
  command = apply

  variables {
    name         = "edge"
    prometheus   = true
    alarm_emails = ["ops@example.com"]
    alarm_actions = [
      "arn:aws:sns:eu-west-1:123456789012:pager",
      "arn:aws:automate:eu-west-1:ec2:reboot",
    ]
  }

  assert {
    condition = (
      toset(keys(aws_prometheus_rule_group_namespace.this)) == toset([for file in fileset("rules", "*") : trimsuffix(file, ".yml")])
      && length(aws_prometheus_rule_group_namespace.this) >= 3
      && alltrue([for each in aws_prometheus_rule_group_namespace.this : length(yamldecode(each.data).groups) > 0])
    )
    error_message = "a namespace for each file, with its groups"
  }
  assert {
    condition = (
      strcontains(aws_prometheus_rule_group_namespace.this["alerts"].data, "up{job=\"edge\"} == 0")
      && !strcontains(aws_prometheus_rule_group_namespace.this["alerts"].data, "job=\"fanlight\"")
    )
    error_message = "about the job that the collector scrapes"
  }
  assert {
    condition = yamldecode(yamldecode(aws_prometheus_alert_manager_definition.this[0].definition).alertmanager_config).receivers[0].sns_configs[*].topic_arn == [
      "arn:aws:sns:eu-west-1:123456789012:pager",
      "arn:aws:sns:eu-west-1:123456789012:fanlight-alarms",
    ]
    error_message = "alerts go to the topics that alarms go to"
  }
  assert {
    condition = { for statement in jsondecode(aws_sns_topic_policy.alarms[0].policy).Statement : statement.Sid => [statement.Principal.Service, statement.Condition] } == {
      Alarms = ["cloudwatch.amazonaws.com", { StringEquals = { "aws:SourceAccount" = "123456789012" } }]
      Alerts = ["aps.amazonaws.com", {
        ArnEquals    = { "aws:SourceArn" = "arn:aws:aps:eu-west-1:123456789012:workspace/ws-1" }
        StringEquals = { "aws:SourceAccount" = "123456789012" }
      }]
    }
    error_message = "alarms of this account and alerts of this workspace may use the topic"
  }
}

run "without_prometheus_there_are_no_rules" {
  command = plan

  variables {
    alarm_emails = ["ops@example.com"]
  }

  assert {
    condition     = length(aws_prometheus_rule_group_namespace.this) == 0 && length(aws_prometheus_alert_manager_definition.this) == 0
    error_message = "neither rules nor an alert manager"
  }
}

run "grafana_reads_this_prometheus" {
  command = apply

  variables {
    prometheus = true
    grafana    = true
  }

  assert {
    condition     = output.prometheus.remote_write_url == "https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1/api/v1/remote_write"
    error_message = "where the collector writes to"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.grafana[0].policy).Statement :
      statement.Resource if statement.Sid == "ReadPrometheus"
    ] == [["arn:aws:aps:eu-west-1:123456789012:workspace/ws-1"]]
    error_message = "only this workspace"
  }
  assert {
    condition = !anytrue([
      for statement in jsondecode(aws_iam_role_policy.grafana[0].policy).Statement : strcontains(join(" ", statement.Action), "*")
    ])
    error_message = "no wildcards in actions"
  }
}

run "what_can_not_be_is_refused" {
  command = plan

  variables {
    name           = "Fanlight"
    service        = { cluster_name = "fanlight", service_name = "fanlight", min_tasks = 0 }
    cache_node_ids = []
    thresholds     = { task_cpu_percent = 100 }
    alarm_emails   = ["ops"]
    grafana        = true
  }

  expect_failures = [
    var.name,
    var.service,
    var.cache_node_ids,
    var.thresholds,
    var.alarm_emails,
    var.grafana,
  ]
}
