locals {
  balancer = { LoadBalancer = var.load_balancer.arn_suffix }
  targets  = merge(local.balancer, { TargetGroup = var.load_balancer.target_group_arn_suffix })
  service  = { ClusterName = var.service.cluster_name, ServiceName = var.service.service_name }
  gateway  = { Service = var.name }

  # Metric, what it is of, what of five minutes, beyond what, and what it means.
  alarms = merge(
    {
      unhealthy-nodes = {
        metric = ["AWS/ApplicationELB", "UnHealthyHostCount", local.targets], stat = "Minimum", above = 0
        means  = "A node has failed readiness for five minutes. Ask it why: the body of /readyz says so, and its log."
      }
      load-balancer-5xx = {
        metric = ["AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", local.balancer], stat = "Sum", above = var.thresholds.load_balancer_5xx
        means  = "The load balancer answers for nodes that don't: there are none, or they don't accept."
      }
      node-5xx = {
        metric = ["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", local.targets], stat = "Sum", above = var.thresholds.target_5xx
        means  = "Nodes refuse: Redis is away, or they are full or draining."
      }
      node-connection-errors = {
        metric = ["AWS/ApplicationELB", "TargetConnectionErrorCount", local.targets], stat = "Sum", above = var.thresholds.target_connection_errors
        means  = "Nodes don't accept connections: out of files, or overwhelmed."
      }
      load-balancer-rejects = {
        metric = ["AWS/ApplicationELB", "RejectedConnectionCount", local.balancer], stat = "Sum", above = 0
        means  = "The load balancer has no room for connections. It grows by itself; for known peaks, reserve capacity."
      }
      tasks-missing = {
        metric = ["ECS/ContainerInsights", "RunningTaskCount", local.service], stat = "Maximum", below = var.service.min_tasks, missing = "breaching"
        means  = "Fewer tasks run than there must be: they don't start, or end. Also where the cluster has no Container Insights."
      }
      tasks-cpu = {
        metric = ["AWS/ECS", "CPUUtilization", local.service], stat = "Average", above = var.thresholds.task_cpu_percent
        means  = "Tasks are short of CPU, and scaling does not keep up or is at its end."
      }
      tasks-memory = {
        metric = ["AWS/ECS", "MemoryUtilization", local.service], stat = "Maximum", above = var.thresholds.task_memory_percent
        means  = "A task is near the memory at which it is killed."
      }
      connections-untold = {
        metric = ["Fanlight", "Connections", local.gateway], stat = "SampleCount", below = 1, missing = "breaching"
        means  = "No task tells its connections, so the number of tasks does not follow them any more."
      }
      delivery-lag = {
        metric = ["Fanlight", "DeliveryLagP99", local.gateway], stat = "Average", above = var.thresholds.delivery_lag_ms
        means  = "Messages are late: nodes or cache are short of CPU, or a failover is under way."
      }
    },
    merge([for node in var.cache_node_ids : {
      "cache-cpu-${node}" = {
        metric = ["AWS/ElastiCache", "EngineCPUUtilization", { CacheClusterId = node }], stat = "Average", above = var.thresholds.cache_cpu_percent
        means  = "The one thread that carries this shard's messages is nearly busy. Add shards."
      }
      "cache-memory-${node}" = {
        metric = ["AWS/ElastiCache", "DatabaseMemoryUsagePercentage", { CacheClusterId = node }], stat = "Maximum", above = var.thresholds.cache_memory_percent
        means  = "Histories, queues or sessions fill the cache. Beyond 100 % it refuses to write."
      }
      "cache-evictions-${node}" = {
        metric = ["AWS/ElastiCache", "Evictions", { CacheClusterId = node }], stat = "Sum", above = 0
        means  = "The cache has thrown away what the gateway needs: it is not on its parameter group."
      }
      # Masters have none.
      "cache-replication-lag-${node}" = {
        metric = ["AWS/ElastiCache", "ReplicationLag", { CacheClusterId = node }], stat = "Average", above = var.thresholds.cache_replication_lag_s
        means  = "A replica is behind: a failover now would lose what it lacks."
      }
    }]...),
  )

  alarm_actions = concat(var.alarm_actions, aws_sns_topic.alarms[*].arn)
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name        = "${var.name}-${each.key}"
  alarm_description = each.value.means

  namespace   = each.value.metric[0]
  metric_name = each.value.metric[1]
  dimensions  = each.value.metric[2]
  statistic   = each.value.stat

  comparison_operator = can(each.value.below) ? "LessThanThreshold" : "GreaterThanThreshold"
  threshold           = try(each.value.below, each.value.above)
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = try(each.value.missing, "notBreaching")

  alarm_actions = local.alarm_actions
  ok_actions    = local.alarm_actions
}

resource "aws_sns_topic" "alarms" {
  count = length(var.alarm_emails) > 0 ? 1 : 0

  name              = "${var.name}-alarms"
  kms_master_key_id = var.kms_key_arn
}

resource "aws_sns_topic_subscription" "emails" {
  for_each = var.alarm_emails

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = each.value
}
