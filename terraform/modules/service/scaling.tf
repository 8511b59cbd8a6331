resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${local.cluster_name}/${aws_ecs_service.this.name}"
  min_capacity       = var.scaling.min
  max_capacity       = var.scaling.max
}

# Each task tells its own number, so the average over all of them is what one has.
resource "aws_appautoscaling_policy" "connections" {
  name               = "connections"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension
  resource_id        = aws_appautoscaling_target.this.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.scaling.connections_per_task
    scale_out_cooldown = var.scaling.scale_out_cooldown_s
    scale_in_cooldown  = var.scaling.scale_in_cooldown_s

    customized_metric_specification {
      namespace   = local.metrics.namespace
      metric_name = local.metrics.connections
      statistic   = "Average"

      dimensions {
        name  = local.metrics.dimension
        value = var.name
      }
    }
  }
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension
  resource_id        = aws_appautoscaling_target.this.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.scaling.cpu_percent
    scale_out_cooldown = var.scaling.scale_out_cooldown_s
    scale_in_cooldown  = var.scaling.scale_in_cooldown_s

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

locals {
  # What the gateway writes with `telemetry.emf`, under the name `telemetry.service`.
  metrics = {
    namespace   = "Fanlight"
    connections = "Connections"
    dimension   = "Service"
  }
}
