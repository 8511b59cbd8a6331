# The collector beside each gateway, where metrics go to Managed Prometheus or traces to X-Ray.

locals {
  to_xray = var.traces != null && try(var.traces.endpoint, null) == null

  collector_parts = concat(
    var.prometheus == null ? [] : [yamldecode(file("${path.module}/collector.yaml"))],
    local.to_xray ? [yamldecode(file("${path.module}/collector-xray.yaml"))] : [],
  )
  collector_config = {
    receivers  = merge([for part in local.collector_parts : part.receivers]...)
    processors = merge([for part in local.collector_parts : part.processors]...)
    exporters  = merge([for part in local.collector_parts : part.exporters]...)
    extensions = merge([for part in local.collector_parts : try(part.extensions, {})]...)
    service = {
      extensions = distinct(flatten([for part in local.collector_parts : try(part.service.extensions, [])]))
      pipelines  = merge([for part in local.collector_parts : part.service.pipelines]...)
    }
  }

  collectors = length(local.collector_parts) == 0 ? [] : [{
    name      = "collector"
    image     = var.collector_image
    essential = false
    memory    = 256
    # Killed for memory, it would be missed for as long as its task lives. What does not last a minute
    # is not started again: FanlightNodesUnseen tells.
    restartPolicy = { enabled = true, restartAttemptPeriod = 60 }

    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    stopTimeout            = 30

    environment = concat(
      [
        { name = "AOT_CONFIG_CONTENT", value = yamlencode(local.collector_config) },
        { name = "AWS_REGION", value = data.aws_region.current.region },
        { name = "METRICS_TARGET", value = "127.0.0.1:${local.admin_port}" },
        { name = "SERVICE_NAME", value = var.name },
      ],
      var.prometheus == null ? [] : [{ name = "REMOTE_WRITE_URL", value = var.prometheus.remote_write_url }],
    )

    logConfiguration = {
      logDriver = "awslogs"
      options   = merge(local.log_options, { awslogs-stream-prefix = "collector" })
    }
  }]
}
