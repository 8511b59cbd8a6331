output "cluster_name" {
  description = "The ECS cluster."
  value       = local.cluster_name
}

output "service_name" {
  description = "The ECS service, and the value of the dimension `Service` of the gateway's metrics."
  value       = aws_ecs_service.this.name
}

output "security_group_id" {
  description = "The tasks' security group, to open further ways, as to a backend."
  value       = aws_security_group.this.id
}

output "task_role_name" {
  description = "The role of the tasks."
  value       = aws_iam_role.task.name
}

output "execution_role_name" {
  description = "The role that starts tasks."
  value       = aws_iam_role.execution.name
}

output "log_group_name" {
  description = "Where the logs are."
  value       = aws_cloudwatch_log_group.this.name
}

output "task_definition_arn" {
  description = "The task definition with its revision."
  value       = aws_ecs_task_definition.this.arn
}

output "server_api_url" {
  description = "Where backends find the server API. Null if there is none."
  value       = var.server_api == null ? null : "http://api.${var.server_api.domain}:${var.server_api.port}"
}

output "connections_limit" {
  description = "How many connections a task takes (`limits.connections`)."
  value       = local.connections_limit
}
