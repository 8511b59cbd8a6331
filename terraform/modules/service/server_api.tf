# How backends find the server API: a name that has the addresses of tasks, up to
# eight at a time; any of them answers.

resource "aws_service_discovery_private_dns_namespace" "server_api" {
  count = var.server_api == null ? 0 : 1

  name        = var.server_api.domain
  description = "Where backends find ${var.name}"
  vpc         = var.vpc_id
}

resource "aws_service_discovery_service" "server_api" {
  count = var.server_api == null ? 0 : 1

  name        = "api"
  description = "The server API of ${var.name}"

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.server_api[0].id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      # A task that has gone is asked no longer than that.
      ttl = 10
    }
  }

  # ECS tells it which tasks are well.
  health_check_custom_config {
    failure_threshold = 1
  }
}
