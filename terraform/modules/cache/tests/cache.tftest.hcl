mock_provider "aws" {
  mock_resource "aws_elasticache_replication_group" {
    defaults = { configuration_endpoint_address = "clustercfg.fanlight.euw1.cache.amazonaws.com" }
  }
}

mock_provider "random" {}

variables {
  name       = "fanlight"
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2", "subnet-3"]
}

run "a_cluster_survives_the_loss_of_a_zone" {
  command = apply

  assert {
    condition = (
      aws_elasticache_replication_group.this.engine == "valkey"
      && aws_elasticache_replication_group.this.cluster_mode == "enabled"
      && aws_elasticache_replication_group.this.num_node_groups == 2
      && aws_elasticache_replication_group.this.replicas_per_node_group == 1
    )
    error_message = "two shards of Valkey with a replica each"
  }
  assert {
    condition     = aws_elasticache_replication_group.this.multi_az_enabled && aws_elasticache_replication_group.this.automatic_failover_enabled
    error_message = "a replica in another zone takes over"
  }
  assert {
    condition = (
      aws_elasticache_replication_group.this.transit_encryption_enabled
      && aws_elasticache_replication_group.this.transit_encryption_mode == "required"
      && aws_elasticache_replication_group.this.at_rest_encryption_enabled == "true"
    )
    error_message = "encrypted on the way and at rest"
  }
  assert {
    condition     = aws_elasticache_replication_group.this.snapshot_retention_limit == 1 && aws_elasticache_replication_group.this.final_snapshot_identifier == "fanlight-final-${random_id.final_snapshot.hex}"
    error_message = "snapshots, and a last one, whose name no cluster before it has used"
  }
  assert {
    condition     = output.node_ids == ["fanlight-0001-001", "fanlight-0001-002", "fanlight-0002-001", "fanlight-0002-002"]
    error_message = "nodes are named as ElastiCache names them"
  }
}

run "subscribers_may_fall_behind_and_nothing_is_evicted" {
  command = plan

  assert {
    condition = { for parameter in aws_elasticache_parameter_group.this.parameter : parameter.name => parameter.value } == {
      "cluster-enabled"                                = "yes"
      "client-output-buffer-limit-pubsub-hard-limit"   = "268435456"
      "client-output-buffer-limit-pubsub-soft-limit"   = "67108864"
      "client-output-buffer-limit-pubsub-soft-seconds" = "60"
      "maxmemory-policy"                               = "noeviction"
    }
    error_message = "the parameters that the gateway needs"
  }
  assert {
    condition     = aws_elasticache_parameter_group.this.family == "valkey8"
    error_message = "the family of Valkey 8"
  }
}

run "the_gateway_alone_gets_in_and_may_only_what_it_needs" {
  command = apply

  assert {
    condition     = strcontains(aws_elasticache_user.gateway.access_string, " ~fl:* &fl:* -@all ") && strcontains(aws_elasticache_user.gateway.access_string, " -@dangerous")
    error_message = "only its own keys and channels, and nothing dangerous"
  }
  assert {
    condition     = aws_elasticache_user.default.user_name == "default" && startswith(aws_elasticache_user.default.access_string, "off ")
    error_message = "who has no name does not get in"
  }
  assert {
    condition     = aws_secretsmanager_secret_version.url.secret_string == "rediss-cluster://fanlight:${random_password.gateway["even"].result}@clustercfg.fanlight.euw1.cache.amazonaws.com:6379"
    error_message = "the secret is the whole URL, with TLS"
  }
  assert {
    condition     = aws_elasticache_user.gateway.authentication_mode[0].type == "password" && length(aws_elasticache_user.gateway.authentication_mode[0].passwords) == 2
    error_message = "two passwords, so that one can be replaced"
  }
}

run "a_rotation_keeps_the_last_password_good" {
  command = apply

  variables {
    password_generation = 1
  }

  assert {
    condition     = random_password.gateway["even"].keepers == tomap({ turn = "0" })
    error_message = "the password that running tasks have is the same"
  }
  assert {
    condition     = random_password.gateway["odd"].keepers == tomap({ turn = "1" })
    error_message = "the other one is new"
  }
  assert {
    condition     = strcontains(aws_secretsmanager_secret_version.url.secret_string, random_password.gateway["odd"].result)
    error_message = "and new tasks get it"
  }
}

run "a_cluster_that_replaces_another_has_another_last_snapshot" {
  command = apply

  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/1"
  }

  assert {
    condition     = random_id.final_snapshot.keepers.kms_key == var.kms_key_arn && aws_elasticache_replication_group.this.kms_key_id == var.kms_key_arn
    error_message = "its digits are anew where its key is"
  }
}

run "what_can_not_be_is_refused" {
  command = plan

  variables {
    name                    = "fanlight--cache"
    subnet_ids              = ["subnet-1"]
    node_type               = "r7g.large"
    engine_version          = "6.2"
    shards                  = 0
    replicas_per_shard      = 0
    pubsub_buffer           = { soft_mib = 300 }
    password_generation     = 0.5
    snapshot_retention_days = 40
  }

  expect_failures = [
    var.name,
    var.subnet_ids,
    var.node_type,
    var.engine_version,
    var.shards,
    var.replicas_per_shard,
    var.pubsub_buffer,
    var.password_generation,
    var.snapshot_retention_days,
  ]
}
