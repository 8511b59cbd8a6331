locals {
  admin_port = 9090
  admin_host = length(var.admin_security_group_ids) > 0 ? "0.0.0.0" : "127.0.0.1"

  traces = var.traces == null ? {} : {
    FANLIGHT__TELEMETRY__TRACES__ENDPOINT                = local.to_xray ? "http://127.0.0.1:4318" : var.traces.endpoint
    FANLIGHT__TELEMETRY__TRACES__PUBLICATION_RATIO       = tostring(var.traces.publication_ratio)
    FANLIGHT__TELEMETRY__TRACES__PUBLICATIONS_PER_SECOND = tostring(var.traces.publications_per_second)
    FANLIGHT__TELEMETRY__TRACES__CONNECTION_RATIO        = tostring(var.traces.connection_ratio)
  }

  # Its keys by name, so that each keeps its place as long as none before it comes or goes.
  server_api_keys = var.server_api == null ? [] : [
    for name in sort(keys(var.server_api.keys)) : merge(var.server_api.keys[name], { name = name })
  ]
  server_api = merge(
    var.server_api == null ? {} : { FANLIGHT__LISTEN__API = "0.0.0.0:${var.server_api.port}" },
    [for index, key in local.server_api_keys : {
      for option, value in {
        NAME                = key.name
        SCOPES              = join(",", key.scopes)
        DESTINATIONS        = join(",", key.destinations)
        REQUESTS_PER_SECOND = key.requests_per_second == 0 ? "" : tostring(key.requests_per_second)
      } : "FANLIGHT__API__KEYS__${index}__${option}" => value if value != ""
    }]...
  )

  # Connections that are not for sessions (`limits.http_connections`), and the gateway's own files.
  other_files = 16384 + 256

  # Where the average that scaling aims at is 60 % of it, as long as there are files.
  connections_limit = coalesce(
    var.scaling.connections_limit,
    floor(min(var.scaling.connections_per_task * 5 / 3, var.nofile * 0.9, var.nofile - local.other_files)),
  )

  # What is given by the user wins.
  environment = merge(
    {
      FANLIGHT__LISTEN__PUBLIC          = "0.0.0.0:${var.load_balancer.target_port}"
      FANLIGHT__LISTEN__ADMIN           = "${local.admin_host}:${local.admin_port}"
      FANLIGHT__LISTEN__TRUSTED_PROXIES = join(",", var.load_balancer.cidrs)
      # Longer than the load balancer keeps an idle connection, so that it is not the gateway that
      # ends one into which a request is on its way (502).
      FANLIGHT__LIMITS__REQUEST_HEAD_TIME = "${var.load_balancer.idle_timeout_s + 10}s"
      FANLIGHT__LIMITS__CONNECTIONS       = tostring(local.connections_limit)
      FANLIGHT__DRAIN__SHUTDOWN_TIMEOUT   = "${var.stop_timeout_s - 5}s"
      # Longer than the load balancer takes to notice, which sends clients until then.
      FANLIGHT__DRAIN__GRACE = "${var.load_balancer.unhealthy_after_s + 5}s"
      # Deregistered minutes before SIGTERM, a task would be cut off with all its clients.
      FANLIGHT__DRAIN__WATCH_TARGET_GROUP  = var.load_balancer.target_group_arn
      FANLIGHT__DRAIN__ECS_TASK_PROTECTION = tostring(var.task_protection)
      # ECS replaces tasks that fail the load balancer's check, all of them if the cache fails over.
      FANLIGHT__BROKER__READINESS_PATIENCE = "2m"
      FANLIGHT__REBALANCE__ENABLED         = tostring(var.rebalance)
      FANLIGHT__TELEMETRY__EMF             = "true"
      FANLIGHT__TELEMETRY__SERVICE         = var.name
      FANLIGHT__LOG__FORMAT                = "json"
    },
    local.traces,
    local.server_api,
    var.environment,
  )
  secrets = merge(
    { FANLIGHT__REDIS__URL = var.cache.url_secret_arn },
    { for index, key in local.server_api_keys : "FANLIGHT__API__KEYS__${index}__SECRET" => key.secret },
    var.secrets,
  )

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

    portMappings = concat(
      [{ name = "public", containerPort = var.load_balancer.target_port, protocol = "tcp" }],
      var.server_api == null ? [] : [{ name = "api", containerPort = var.server_api.port, protocol = "tcp" }],
    )
    ulimits     = [{ name = "nofile", softLimit = var.nofile, hardLimit = var.nofile }]
    stopTimeout = var.stop_timeout_s

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
    dependsOn = length(local.collector_parts) == 0 ? null : [{ containerName = "collector", condition = "START" }]

    logConfiguration = {
      logDriver = "awslogs"
      options   = merge(local.log_options, { awslogs-stream-prefix = "gateway" })
    }
  }
}
