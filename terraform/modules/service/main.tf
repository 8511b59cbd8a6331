data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  cluster_name = var.cluster_name == null ? aws_ecs_cluster.this[0].name : var.cluster_name
}

resource "aws_ecs_cluster" "this" {
  count = var.cluster_name == null ? 1 : 0

  name = var.name

  setting {
    name  = "containerInsights"
    value = var.container_insights
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  count = var.cluster_name == null ? 1 : 0

  cluster_name       = aws_ecs_cluster.this[0].name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/${var.name}/tasks"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory_mib
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode(concat([local.gateway], local.collectors))

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  # Fargate has no tmpfs.
  volume {
    name = "tmp"
  }
}

resource "aws_ecs_service" "this" {
  name            = var.name
  cluster         = local.cluster_name
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = var.scaling.min

  enable_execute_command            = var.execute_command
  enable_ecs_managed_tags           = true
  propagate_tags                    = "SERVICE"
  health_check_grace_period_seconds = 30
  availability_zone_rebalancing     = "ENABLED"

  # As many new tasks as there are old ones, before any of those is asked to go.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    base              = var.spot.percent == 0 ? 0 : var.spot.on_demand_base
    weight            = 100 - var.spot.percent
  }

  dynamic "capacity_provider_strategy" {
    for_each = var.spot.percent == 0 ? [] : [var.spot.percent]

    content {
      capacity_provider = "FARGATE_SPOT"
      weight            = capacity_provider_strategy.value
    }
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [aws_security_group.this.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.load_balancer.target_group_arn
    container_name   = local.gateway.name
    container_port   = var.load_balancer.target_port
  }

  dynamic "service_registries" {
    for_each = aws_service_discovery_service.server_api

    content {
      registry_arn = service_registries.value.arn
    }
  }

  # Tasks that start without their rights or ways fail.
  depends_on = [
    aws_ecs_cluster_capacity_providers.this,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_vpc_security_group_egress_rule.cache,
    aws_vpc_security_group_egress_rule.https,
    aws_vpc_security_group_egress_rule.load_balancer_to_tasks,
    aws_vpc_security_group_ingress_rule.cache_from_tasks,
    aws_vpc_security_group_ingress_rule.load_balancer,
  ]

  lifecycle {
    # Autoscaling's.
    ignore_changes = [desired_count]
  }
}
