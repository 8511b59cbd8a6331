data "aws_region" "current" {}

locals {
  # Title, statistic, and metrics: namespace, name, dimensions.
  panels = [
    ["Connections", "Sum", [["Fanlight", "Connections", local.gateway], ["Fanlight", "Sessions", local.gateway]]],
    ["Connections of a task", "Average", [["Fanlight", "Connections", local.gateway]]],
    ["Deliveries", "Sum", [["Fanlight", "Deliveries", local.gateway]]],
    ["Delivery lag, p99 (ms)", "Maximum", [["Fanlight", "DeliveryLagP99", local.gateway]]],
    ["Nodes", "Maximum", [
      ["AWS/ApplicationELB", "HealthyHostCount", local.targets],
      ["AWS/ApplicationELB", "UnHealthyHostCount", local.targets],
      ["ECS/ContainerInsights", "RunningTaskCount", local.service],
    ]],
    ["Tasks (%)", "Average", [["AWS/ECS", "CPUUtilization", local.service], ["AWS/ECS", "MemoryUtilization", local.service]]],
    ["Load balancer", "Sum", [
      ["AWS/ApplicationELB", "ActiveConnectionCount", local.balancer],
      ["AWS/ApplicationELB", "NewConnectionCount", local.balancer],
      ["AWS/ApplicationELB", "RejectedConnectionCount", local.balancer],
    ]],
    ["Errors", "Sum", [
      ["AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", local.balancer],
      ["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", local.targets],
      ["AWS/ApplicationELB", "TargetConnectionErrorCount", local.targets],
    ]],
    ["Load balancer's capacity units", "Sum", [["AWS/ApplicationELB", "ConsumedLCUs", local.balancer]]],
    ["Cache: CPU of the engine (%)", "Average", [for node in var.cache_node_ids : ["AWS/ElastiCache", "EngineCPUUtilization", { CacheClusterId = node }]]],
    ["Cache: memory (%)", "Maximum", [for node in var.cache_node_ids : ["AWS/ElastiCache", "DatabaseMemoryUsagePercentage", { CacheClusterId = node }]]],
    ["Cache: replication lag (s)", "Maximum", [for node in var.cache_node_ids : ["AWS/ElastiCache", "ReplicationLag", { CacheClusterId = node }]]],
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.dashboard ? 1 : 0

  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = [for index, panel in local.panels : {
      type   = "metric"
      x      = index % 3 * 8
      y      = floor(index / 3) * 6
      width  = 8
      height = 6
      properties = {
        title  = panel[0]
        stat   = panel[1]
        period = 60
        region = data.aws_region.current.region
        # A metric is a flat list: namespace, name, then each dimension's name and value.
        metrics = [for metric in panel[2] : concat([metric[0], metric[1]], flatten([for name, value in metric[2] : [name, value]]))]
      }
    }]
  })
}
