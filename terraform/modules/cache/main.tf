locals {
  major = split(".", var.engine_version)[0]
  port  = 6379
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id = var.name
  description          = "Messages between the nodes of ${var.name}"

  engine               = "valkey"
  engine_version       = var.engine_version
  node_type            = var.node_type
  port                 = local.port
  parameter_group_name = aws_elasticache_parameter_group.this.name

  cluster_mode               = "enabled"
  num_node_groups            = var.shards
  replicas_per_node_group    = var.replicas_per_shard
  automatic_failover_enabled = true
  multi_az_enabled           = true

  subnet_group_name  = aws_elasticache_subnet_group.this.name
  security_group_ids = [aws_security_group.this.id]

  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  at_rest_encryption_enabled = true
  kms_key_id                 = var.kms_key_arn
  user_group_ids             = [aws_elasticache_user_group.this.user_group_id]

  snapshot_retention_limit   = var.snapshot_retention_days
  final_snapshot_identifier  = var.final_snapshot ? "${var.name}-final-${random_id.final_snapshot.hex}" : null
  maintenance_window         = var.maintenance_window
  apply_immediately          = var.apply_immediately
  auto_minor_version_upgrade = true

  log_delivery_configuration {
    destination      = aws_cloudwatch_log_group.slow.name
    destination_type = "cloudwatch-logs"
    log_format       = "json"
    log_type         = "slow-log"
  }
}

# The last snapshot of each cluster has a name of its own: that of one that was there before stays, and
# would keep this one from being deleted.
resource "random_id" "final_snapshot" {
  byte_length = 4

  # What makes another cluster of it: going back to an older version does.
  keepers = {
    name           = var.name
    kms_key        = var.kms_key_arn == null ? "" : var.kms_key_arn
    engine_version = var.engine_version
  }
}

resource "aws_elasticache_parameter_group" "this" {
  name        = "${var.name}-valkey${local.major}"
  family      = "valkey${local.major}"
  description = "Cluster mode, room for bursts of messages, nothing evicted"

  parameter {
    name  = "cluster-enabled"
    value = "yes"
  }

  parameter {
    name  = "client-output-buffer-limit-pubsub-hard-limit"
    value = tostring(var.pubsub_buffer.hard_mib * 1024 * 1024)
  }

  parameter {
    name  = "client-output-buffer-limit-pubsub-soft-limit"
    value = tostring(var.pubsub_buffer.soft_mib * 1024 * 1024)
  }

  parameter {
    name  = "client-output-buffer-limit-pubsub-soft-seconds"
    value = tostring(var.pubsub_buffer.soft_s)
  }

  # Leases, sessions, histories and queues expire by themselves; none may go before its time.
  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_elasticache_subnet_group" "this" {
  name        = var.name
  description = "Private subnets of ${var.name}"
  subnet_ids  = var.subnet_ids
}

# Who may come in is opened by the module `service`, which has the tasks' security group.
resource "aws_security_group" "this" {
  name_prefix = "${var.name}-cache-"
  description = "The cache of ${var.name}"
  vpc_id      = var.vpc_id

  tags = { Name = "${var.name}-cache" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "slow" {
  name              = "/aws/vendedlogs/${var.name}/cache/slow-log"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}
