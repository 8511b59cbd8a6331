# The server API, with one key that may do all. Give each backend one of its own, with the scopes and
# destinations that it needs, where there are several.

locals {
  server_api = length(var.server_api_clients) == 0 ? null : {
    client_security_group_ids = var.server_api_clients
    domain                    = "${var.name}.internal"
    # Of the version, so that no task starts before the secret has one.
    keys = { backend = { secret = aws_secretsmanager_secret_version.server_api[0].arn } }
  }
}

resource "random_password" "server_api" {
  count = length(var.server_api_clients) > 0 ? 1 : 0

  length  = 48
  special = false
}

resource "aws_secretsmanager_secret" "server_api" {
  count = length(var.server_api_clients) > 0 ? 1 : 0

  #checkov:skip=CKV_AWS_149:AWS' own key, as for the cache's secret in this example; set kms_key_id for one of yours

  name_prefix = "${var.name}/server-api-"
  description = "The key of the server API, for backends"
}

resource "aws_secretsmanager_secret_version" "server_api" {
  count = length(var.server_api_clients) > 0 ? 1 : 0

  secret_id     = aws_secretsmanager_secret.server_api[0].id
  secret_string = random_password.server_api[0].result
}
