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
