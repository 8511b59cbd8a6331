output "url_secret_arn" {
  description = "The secret that holds `redis.url`."
  value       = aws_secretsmanager_secret.url.arn

  # A task must not start with a secret that is still empty.
  depends_on = [aws_secretsmanager_secret_version.url]
}

output "security_group_id" {
  description = "The cache's security group, for the module `service` to open."
  value       = aws_security_group.this.id
}

output "port" {
  description = "The cache's port."
  value       = local.port
}

output "endpoint" {
  description = "The configuration endpoint."
  value       = aws_elasticache_replication_group.this.configuration_endpoint_address
}

output "node_ids" {
  description = "The nodes, as CloudWatch's metrics call them, in the order that ElastiCache names them."
  value = flatten([
    for shard in range(1, var.shards + 1) : [
      for node in range(1, var.replicas_per_shard + 2) :
      format("%s-%04d-%03d", var.name, shard, node)
    ]
  ])
}
