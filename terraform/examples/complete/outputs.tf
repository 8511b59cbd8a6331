output "url" {
  description = "Where clients connect to."
  value       = "wss://${coalesce(one(aws_route53_record.this[*].name), module.alb.dns_name)}/ws"
}

output "load_balancer" {
  description = "The load balancer's name, for a record of your own."
  value       = module.alb.dns_name
}

output "cluster_name" {
  description = "The ECS cluster."
  value       = module.service.cluster_name
}

output "service_name" {
  description = "The ECS service."
  value       = module.service.service_name
}

output "log_group_name" {
  description = "Where the logs are."
  value       = module.service.log_group_name
}

output "nat_addresses" {
  description = "The addresses that tasks come from outside."
  value       = module.network.nat_addresses
}

output "grafana" {
  description = "Managed Grafana, if there is one."
  value       = module.observability.grafana_endpoint
}

output "server_api" {
  description = "Where backends find the server API, and the secret with its key. Null if there is none."
  value = local.server_api == null ? null : {
    url            = module.service.server_api_url
    key_secret_arn = aws_secretsmanager_secret.server_api[0].arn
  }
}
