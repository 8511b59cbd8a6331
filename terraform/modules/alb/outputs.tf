output "arn_suffix" {
  description = "The load balancer, as CloudWatch's metrics call it."
  value       = aws_lb.this.arn_suffix
}

output "target_group_arn" {
  description = "Where tasks register. Known once the listeners are there, without which ECS refuses it."
  value       = aws_lb_target_group.this.arn

  depends_on = [aws_lb_listener.http, aws_lb_listener.https]
}

output "target_group_arn_suffix" {
  description = "The target group, as CloudWatch's metrics call it."
  value       = aws_lb_target_group.this.arn_suffix
}

output "target_port" {
  description = "The port of targets."
  value       = var.port
}

output "idle_timeout_s" {
  description = "How long it keeps a connection to a target that is idle, in seconds."
  value       = aws_lb.this.idle_timeout
}

output "unhealthy_after_s" {
  description = "How long it sends to a target whose readiness fails, in seconds: every check that must fail."
  value       = aws_lb_target_group.this.health_check[0].interval * aws_lb_target_group.this.health_check[0].unhealthy_threshold
}

output "security_group_id" {
  description = "The load balancer's security group."
  value       = aws_security_group.this.id
}

output "dns_name" {
  description = "The load balancer's name, for an alias record."
  value       = aws_lb.this.dns_name
}

output "zone_id" {
  description = "The hosted zone of that name, for an alias record in Route 53."
  value       = aws_lb.this.zone_id
}

output "access_logs_bucket" {
  description = "The bucket of the access logs, if there are any."
  value       = one(aws_s3_bucket.access_logs[*].bucket)
}
