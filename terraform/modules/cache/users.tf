locals {
  user_name = "fanlight"

  # Two passwords take turns: a rotation replaces the one that is not in use.
  turns = {
    even = floor(var.password_generation / 2)
    odd  = floor((var.password_generation + 1) / 2)
  }
  password = random_password.gateway[var.password_generation % 2 == 0 ? "even" : "odd"].result
}

# Without special characters, as it goes into a URL: 48 letters and digits are 285 bits.
resource "random_password" "gateway" {
  for_each = local.turns

  length  = 48
  special = false
  keepers = { turn = each.value }
}

# What docs/cluster.md lists, and no more: the gateway's keys and channels, nothing dangerous.
resource "aws_elasticache_user" "gateway" {
  user_id   = "${var.name}-gateway"
  user_name = local.user_name
  engine    = "valkey"
  access_string = join(" ", [
    "on ~fl:* &fl:* -@all +@read +@write +@pubsub +@connection +@scripting -@dangerous",
    "+info +wait +time +cluster|slots +cluster|info",
  ])

  authentication_mode {
    type      = "password"
    passwords = [for turn in keys(local.turns) : random_password.gateway[turn].result]
  }
}

# Who connects without a name is this user, which is off. Its password is nobody's.
resource "random_password" "default" {
  length  = 48
  special = false
}

resource "aws_elasticache_user" "default" {
  user_id       = "${var.name}-default"
  user_name     = "default"
  engine        = "valkey"
  access_string = "off -@all"

  authentication_mode {
    type      = "password"
    passwords = [random_password.default.result]
  }
}

resource "aws_elasticache_user_group" "this" {
  user_group_id = var.name
  engine        = "valkey"
  user_ids      = [aws_elasticache_user.default.user_id, aws_elasticache_user.gateway.user_id]
}

resource "aws_secretsmanager_secret" "url" {
  name_prefix = "${var.name}/redis-url-"
  description = "redis.url of the gateway: endpoint, user and password of the cache"
  kms_key_id  = var.kms_key_arn
}

resource "aws_secretsmanager_secret_version" "url" {
  secret_id = aws_secretsmanager_secret.url.id
  secret_string = format(
    "rediss-cluster://%s:%s@%s:%d",
    local.user_name,
    local.password,
    aws_elasticache_replication_group.this.configuration_endpoint_address,
    local.port,
  )
}
