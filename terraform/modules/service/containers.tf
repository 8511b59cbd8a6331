locals {
  admin_port = 9090
  admin_host = length(var.admin_security_group_ids) > 0 ? "0.0.0.0" : "127.0.0.1"

  traces = var.traces == null ? {} : {
    FANLIGHT__TELEMETRY__TRACES__ENDPOINT                = var.traces.endpoint
    FANLIGHT__TELEMETRY__TRACES__PUBLICATION_RATIO       = tostring(var.traces.publication_ratio)
    FANLIGHT__TELEMETRY__TRACES__PUBLICATIONS_PER_SECOND = tostring(var.traces.publications_per_second)
    FANLIGHT__TELEMETRY__TRACES__CONNECTION_RATIO        = tostring(var.traces.connection_ratio)
  }

  # What is given by the user wins.
  environment = merge(
    {
      FANLIGHT__LISTEN__PUBLIC          = "0.0.0.0:${var.load_balancer.target_port}"
      FANLIGHT__LISTEN__ADMIN           = "${local.admin_host}:${local.admin_port}"
      FANLIGHT__LISTEN__TRUSTED_PROXIES = join(",", var.load_balancer.cidrs)
      # Longer than the load balancer keeps an idle connection, so that it is not the gateway that
      # ends one into which a request is on its way (502).
      FANLIGHT__LIMITS__REQUEST_HEAD_TIME = "${var.load_balancer.idle_timeout_s + 10}s"
      FANLIGHT__DRAIN__SHUTDOWN_TIMEOUT   = "${var.stop_timeout_s - 5}s"
      # Longer than the load balancer takes to notice, which sends clients until then.
      FANLIGHT__DRAIN__GRACE               = "${var.load_balancer.unhealthy_after_s + 5}s"
      FANLIGHT__DRAIN__WATCH_ECS           = "true"
      FANLIGHT__DRAIN__ECS_TASK_PROTECTION = tostring(var.task_protection)
      FANLIGHT__REBALANCE__ENABLED         = tostring(var.rebalance)
      FANLIGHT__TELEMETRY__EMF             = "true"
      FANLIGHT__TELEMETRY__SERVICE         = var.name
      FANLIGHT__LOG__FORMAT                = "json"
    },
    local.traces,
    var.environment,
  )
  secrets = merge({ FANLIGHT__REDIS__URL = var.cache.url_secret_arn }, var.secrets)

  log_options = {
    awslogs-group  = aws_cloudwatch_log_group.this.name
    awslogs-region = data.aws_region.current.region
    # A log that can't be written must not stop the gateway.
    mode            = "non-blocking"
    max-buffer-size = "25m"
  }

  # Without what is null: ECS does not tell it back, and Terraform would see a change each time.
  gateway = { for key, value in local.gateway_or_null : key => value if value != null }

  gateway_or_null = {
    name      = "gateway"
    image     = var.image
    essential = true
    command   = ["serve"]

    user                   = "65532:65532"
    readonlyRootFilesystem = !var.execute_command
    linuxParameters = {
      initProcessEnabled = true
      capabilities       = { drop = ["ALL"] }
    }
    mountPoints = [{ sourceVolume = "tmp", containerPath = "/tmp" }]

    portMappings = [{ name = "public", containerPort = var.load_balancer.target_port, protocol = "tcp" }]
    ulimits      = [{ name = "nofile", softLimit = var.nofile, hardLimit = var.nofile }]
    stopTimeout  = var.stop_timeout_s

    environment = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets     = [for name in sort(keys(local.secrets)) : { name = name, valueFrom = local.secrets[name] }]

    # Whether it lives, not whether it is ready: a node that drains must not be killed for it.
    healthCheck = {
      command     = ["CMD", "/usr/local/bin/fanlight", "health", "--live"]
      interval    = 10
      timeout     = 5
      retries     = 3
      startPeriod = 10
    }

    # Stops after the gateway, so that a drain is seen to its end.
    dependsOn = var.prometheus == null ? null : [{ containerName = "collector", condition = "START" }]

    logConfiguration = {
      logDriver = "awslogs"
      options   = merge(local.log_options, { awslogs-stream-prefix = "gateway" })
    }
  }

  collectors = var.prometheus == null ? [] : [{
    name      = "collector"
    image     = var.prometheus.collector_image
    essential = false
    memory    = 256

    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    stopTimeout            = 30

    environment = [
      { name = "AOT_CONFIG_CONTENT", value = file("${path.module}/collector.yaml") },
      { name = "AWS_REGION", value = data.aws_region.current.region },
      { name = "METRICS_TARGET", value = "127.0.0.1:${local.admin_port}" },
      { name = "REMOTE_WRITE_URL", value = var.prometheus.remote_write_url },
      { name = "SERVICE_NAME", value = var.name },
    ]

    logConfiguration = {
      logDriver = "awslogs"
      options   = merge(local.log_options, { awslogs-stream-prefix = "collector" })
    }
  }]
}
