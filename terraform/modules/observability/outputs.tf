output "prometheus" {
  description = "The workspace of Managed Prometheus, for the module `service`. Null if there is none."
  value = var.prometheus ? {
    workspace_arn    = aws_prometheus_workspace.this[0].arn
    remote_write_url = "${aws_prometheus_workspace.this[0].prometheus_endpoint}api/v1/remote_write"
  } : null
}

output "grafana_endpoint" {
  description = "The host of Managed Grafana, if there is one."
  value       = one(aws_grafana_workspace.this[*].endpoint)
}

output "alarm_names" {
  description = "All alarms."
  value       = sort([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name])
}

output "alarm_topic_arn" {
  description = "The topic of the alarms, if one was made."
  value       = one(aws_sns_topic.alarms[*].arn)
}
