mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-west-1" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/fanlight/tasks" }
  }
}

variables {
  name       = "fanlight"
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2"]
  image      = "ghcr.io/fanlight-io/fanlight:0.1.0"
  load_balancer = {
    target_group_arn  = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl-1/1"
    security_group_id = "sg-alb"
    cidrs             = ["10.20.240.0/24", "10.20.241.0/24"]
  }
  cache = {
    url_secret_arn    = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:fanlight/redis-url-1"
    security_group_id = "sg-cache"
  }
}

run "the_gateway_has_few_rights_and_many_files" {
  command = apply

  assert {
    condition = (
      local.gateway.user == "65532:65532"
      && local.gateway.readonlyRootFilesystem
      && local.gateway.linuxParameters.capabilities.drop == ["ALL"]
    )
    error_message = "a user without rights, on a root that can't be written"
  }
  assert {
    condition     = [for mount in local.gateway.mountPoints : [mount.containerPath, mount.sourceVolume]] == [["/tmp", "tmp"]] && one(aws_ecs_task_definition.this.volume).name == "tmp"
    error_message = "/tmp is a volume of the task"
  }
  assert {
    condition     = local.gateway.ulimits == [{ name = "nofile", softLimit = 200000, hardLimit = 200000 }]
    error_message = "files for 200,000 connections"
  }
  assert {
    condition = (
      aws_ecs_task_definition.this.cpu == "2048"
      && aws_ecs_task_definition.this.memory == "4096"
      && aws_ecs_task_definition.this.runtime_platform[0].cpu_architecture == "ARM64"
    )
    error_message = "2 vCPU and 4 GiB of ARM"
  }
  assert {
    condition     = !can(local.gateway.dependsOn) && jsondecode(aws_ecs_task_definition.this.container_definitions)[0] == jsondecode(jsonencode(local.gateway)) && length(jsondecode(aws_ecs_task_definition.this.container_definitions)) == 1
    error_message = "the gateway is alone in its task"
  }
}

run "sessions_have_all_the_time_there_is_to_leave" {
  command = plan

  assert {
    condition     = local.gateway.stopTimeout == 120 && local.environment.FANLIGHT__DRAIN__SHUTDOWN_TIMEOUT == "115s"
    error_message = "a drain ends 5 s before Fargate kills"
  }
  assert {
    condition     = aws_ecs_service.this.deployment_minimum_healthy_percent == 100 && aws_ecs_service.this.deployment_maximum_percent == 200
    error_message = "new tasks are there before old ones go"
  }
  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].enable && aws_ecs_service.this.deployment_circuit_breaker[0].rollback
    error_message = "a deployment that fails is rolled back"
  }
  assert {
    condition     = local.environment.FANLIGHT__DRAIN__WATCH_TARGET_GROUP == var.load_balancer.target_group_arn && local.environment.FANLIGHT__DRAIN__ECS_TASK_PROTECTION == "false"
    error_message = "a drain begins when the load balancer takes a task out, which no protection holds up"
  }
  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.task.policy).Statement : statement.Action if statement.Sid == "SeeDeregistration"] == [["elasticloadbalancing:DescribeTargetHealth"]]
    error_message = "a task may ask whether it is taken out"
  }
  assert {
    condition     = local.environment.FANLIGHT__BROKER__READINESS_PATIENCE == "2m"
    error_message = "a cache that fails over has no task replaced"
  }
  assert {
    condition     = local.gateway.healthCheck.command == ["CMD", "/usr/local/bin/fanlight", "health", "--live"]
    error_message = "a node that drains is not killed for being unready"
  }
}

run "a_load_balancer_gives_up_idle_connections_before_the_gateway_does" {
  command = plan

  assert {
    condition     = local.environment.FANLIGHT__LIMITS__REQUEST_HEAD_TIME == "130s"
    error_message = "the default of the module alb, and 10 s more"
  }
}

run "a_slower_load_balancer_makes_the_gateway_wait_longer" {
  command = plan

  variables {
    load_balancer = {
      target_group_arn  = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl-1/1"
      security_group_id = "sg-alb"
      cidrs             = ["10.20.240.0/24"]
      idle_timeout_s    = 200
      unhealthy_after_s = 60
    }
  }

  assert {
    condition     = local.environment.FANLIGHT__LIMITS__REQUEST_HEAD_TIME == "210s"
    error_message = "10 s more than the load balancer"
  }
  assert {
    condition     = local.environment.FANLIGHT__DRAIN__GRACE == "65s"
    error_message = "the load balancer's time to notice, and 5 s more"
  }
}

run "a_load_balancer_notices_a_drain_before_clients_are_refused" {
  command = plan

  assert {
    condition     = tonumber(trimsuffix(local.environment.FANLIGHT__DRAIN__GRACE, "s")) > var.load_balancer.unhealthy_after_s
    error_message = "the grace is longer than it takes to notice"
  }
  assert {
    # After SIGTERM the grace is a third of the time at most.
    condition     = tonumber(trimsuffix(local.environment.FANLIGHT__DRAIN__GRACE, "s")) <= tonumber(trimsuffix(local.environment.FANLIGHT__DRAIN__SHUTDOWN_TIMEOUT, "s")) / 3
    error_message = "also where a task is stopped that was not deregistered"
  }
}

run "the_admin_listener_is_within_the_task" {
  command = plan

  assert {
    condition     = local.environment.FANLIGHT__LISTEN__ADMIN == "127.0.0.1:9090" && length(aws_vpc_security_group_ingress_rule.admin) == 0
    error_message = "nobody outside reaches it"
  }
  assert {
    condition     = local.environment.FANLIGHT__LISTEN__TRUSTED_PROXIES == "10.20.240.0/24,10.20.241.0/24"
    error_message = "the load balancer alone is believed"
  }
  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.load_balancer.referenced_security_group_id == "sg-alb"
      && aws_vpc_security_group_ingress_rule.load_balancer.from_port == 8080
      && aws_vpc_security_group_ingress_rule.load_balancer.to_port == 8080
    )
    error_message = "only the load balancer reaches the public listener"
  }
  assert {
    condition     = !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "no public addresses"
  }
}

run "a_scraper_may_be_let_in" {
  command = plan

  variables {
    admin_security_group_ids = { prometheus = "sg-prometheus" }
  }

  assert {
    condition     = local.environment.FANLIGHT__LISTEN__ADMIN == "0.0.0.0:9090" && aws_vpc_security_group_ingress_rule.admin["prometheus"].from_port == 9090
    error_message = "the admin listener is open to the scraper"
  }
}

run "sessions_stay_where_they_are_unless_asked" {
  command = plan

  assert {
    condition     = local.environment.FANLIGHT__REBALANCE__ENABLED == "false"
    error_message = "what is in front may go round"
  }
}

run "sessions_move_to_new_tasks" {
  command = plan

  variables {
    rebalance = true
  }

  assert {
    condition     = local.environment.FANLIGHT__REBALANCE__ENABLED == "true"
    error_message = "the gateway is told to rebalance"
  }
}

run "roles_allow_what_is_needed_and_no_more" {
  command = apply

  variables {
    task_protection = true
    secrets         = { FANLIGHT__AUTH__KEYS__0__SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:jwt-1:key::" }
  }

  assert {
    condition = { for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : statement.Sid => statement.Resource } == {
      Log = ["arn:aws:logs:eu-west-1:123456789012:log-group:/fanlight/tasks:*"]
      ReadSecrets = [
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:jwt-1",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:fanlight/redis-url-1",
      ]
    }
    error_message = "ECS may write this log and read these secrets"
  }
  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.task.policy).Statement : statement if statement.Sid != "SeeDeregistration"] == [{
      Sid      = "ProtectTasks"
      Effect   = "Allow"
      Action   = ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]
      Resource = ["arn:aws:ecs:eu-west-1:123456789012:task/fanlight/*"]
    }]
    error_message = "the gateway may protect tasks of its cluster"
  }
  assert {
    condition     = !anytrue([for statement in concat(local.execution_statements, local.task_statements) : strcontains(join(" ", statement.Action), "*")])
    error_message = "no wildcards in actions"
  }
  assert {
    condition     = jsondecode(aws_iam_role.task.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "only for tasks of this account"
  }
  assert {
    condition     = contains(local.gateway.secrets, { name = "FANLIGHT__REDIS__URL", valueFrom = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:fanlight/redis-url-1" })
    error_message = "the URL with its password comes from Secrets Manager"
  }
}

run "who_needs_nothing_only_sees_whether_it_is_taken_out" {
  command = plan

  assert {
    condition     = local.task_statements[*].Action == [["elasticloadbalancing:DescribeTargetHealth"]]
    error_message = "the gateway has no other rights in AWS"
  }
}

run "a_shell_and_a_private_image_bring_their_rights" {
  command = apply

  variables {
    task_protection     = true
    execute_command     = true
    ecr_repository_arns = ["arn:aws:ecr:eu-west-1:123456789012:repository/fanlight"]
    kms_key_arns        = ["arn:aws:kms:eu-west-1:123456789012:key/1"]
  }

  assert {
    condition     = [for statement in local.task_statements : statement.Sid] == ["SeeDeregistration", "ProtectTasks", "ExecuteCommand"] && !local.gateway.readonlyRootFilesystem
    error_message = "the agent of ECS Exec talks to SSM, and writes to the root"
  }
  assert {
    condition = { for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : statement.Sid => statement.Resource if !contains(["Log", "ReadSecrets"], statement.Sid) } == {
      DecryptSecrets  = ["arn:aws:kms:eu-west-1:123456789012:key/1"]
      PullImage       = ["arn:aws:ecr:eu-west-1:123456789012:repository/fanlight"]
      LogInToRegistry = ["*"]
    }
    error_message = "ECS may pull this image, and decrypt with this key"
  }
}

run "a_collector_writes_to_managed_prometheus" {
  command = apply

  variables {
    prometheus = {
      workspace_arn    = "arn:aws:aps:eu-west-1:123456789012:workspace/ws-1"
      remote_write_url = "https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1/api/v1/remote_write"
    }
  }

  assert {
    condition     = one(local.collectors).essential == false && one(local.collectors).readonlyRootFilesystem
    error_message = "the gateway goes on without it"
  }
  assert {
    condition     = one([for container in jsondecode(aws_ecs_task_definition.this.container_definitions) : container.restartPolicy if container.name == "collector"]) == { enabled = true, restartAttemptPeriod = 60 }
    error_message = "it is started again if it ends"
  }
  assert {
    condition     = local.gateway.dependsOn == [{ containerName = "collector", condition = "START" }]
    error_message = "it stops after the gateway"
  }
  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.task.policy).Statement : statement.Resource if statement.Sid == "WriteMetrics"] == [["arn:aws:aps:eu-west-1:123456789012:workspace/ws-1"]]
    error_message = "it may write to this workspace"
  }
  assert {
    condition = alltrue([
      for name in distinct(flatten(regexall("\\$\\{env:([A-Z_]+)\\}", yamlencode(local.collector_config)))) :
      contains(one(local.collectors).environment[*].name, name)
    ])
    error_message = "all variables of its configuration are set"
  }
  assert {
    condition = { for name, pipeline in yamldecode(one([for variable in one(local.collectors).environment : variable.value if variable.name == "AOT_CONFIG_CONTENT"])).service.pipelines : name => pipeline.exporters } == {
      metrics = ["prometheusremotewrite"]
    }
    error_message = "its configuration is YAML, with a pipeline to the workspace and no other"
  }
}

run "spans_go_to_xray_by_a_collector_beside_the_gateway" {
  command = apply

  variables {
    traces = {}
  }

  assert {
    condition     = local.environment.FANLIGHT__TELEMETRY__TRACES__ENDPOINT == "http://${local.collector_config.receivers.otlp.protocols.http.endpoint}"
    error_message = "the gateway sends them to where the collector listens, within the task"
  }
  assert {
    condition     = keys(local.collector_config.service.pipelines) == ["traces"] && length(local.collector_config.service.extensions) == 0
    error_message = "and nothing is scraped"
  }
  assert {
    condition = alltrue([
      for name in distinct(flatten(regexall("\\$\\{env:([A-Z_]+)\\}", yamlencode(local.collector_config)))) :
      contains(one(local.collectors).environment[*].name, name)
    ])
    error_message = "all variables are set"
  }
  assert {
    condition     = [for statement in local.task_statements : statement.Action if statement.Sid != "SeeDeregistration"] == [["xray:PutTelemetryRecords", "xray:PutTraceSegments"]]
    error_message = "the task may write them, and no more"
  }
}

run "metrics_and_traces_go_by_one_collector" {
  command = apply

  variables {
    traces = {}
    prometheus = {
      workspace_arn    = "arn:aws:aps:eu-west-1:123456789012:workspace/ws-1"
      remote_write_url = "https://aps-workspaces.eu-west-1.amazonaws.com/workspaces/ws-1/api/v1/remote_write"
    }
  }

  assert {
    condition     = length(local.collectors) == 1 && keys(local.collector_config.service.pipelines) == ["metrics", "traces"]
    error_message = "one with both pipelines"
  }
}

run "tasks_follow_connections_and_cpu" {
  command = plan

  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 3 && aws_appautoscaling_target.this.max_capacity == 12 && aws_ecs_service.this.desired_count == 3
    error_message = "3 to 12 tasks"
  }
  assert {
    condition = (
      aws_appautoscaling_policy.connections.target_tracking_scaling_policy_configuration[0].target_value == 30000
      && [
        for metric in aws_appautoscaling_policy.connections.target_tracking_scaling_policy_configuration[0].customized_metric_specification :
        [metric.namespace, metric.metric_name, metric.statistic, one(metric.dimensions).name, one(metric.dimensions).value]
      ] == [["Fanlight", "Connections", "Average", "Service", "fanlight"]]
    )
    error_message = "30,000 connections a task, as the tasks tell"
  }
  assert {
    condition     = local.environment.FANLIGHT__LIMITS__CONNECTIONS == "50000" && output.connections_limit == 50000
    error_message = "30,000 are 60 % of what a task takes"
  }
  assert {
    condition     = local.environment.FANLIGHT__TELEMETRY__EMF == "true" && local.environment.FANLIGHT__TELEMETRY__SERVICE == "fanlight"
    error_message = "and they do tell, under this name"
  }
  assert {
    condition = (
      aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration[0].target_value == 60
      && aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type == "ECSServiceAverageCPUUtilization"
    )
    error_message = "60 % of CPU"
  }
  assert {
    condition     = { for strategy in aws_ecs_service.this.capacity_provider_strategy : strategy.capacity_provider => strategy.weight } == { FARGATE = 100 }
    error_message = "nothing on Spot unless asked for"
  }
}

run "a_task_is_full_before_it_is_out_of_files" {
  command = plan

  variables {
    nofile  = 65535
    scaling = { connections_per_task = 45000 }
  }

  assert {
    condition     = local.environment.FANLIGHT__LIMITS__CONNECTIONS == "48895"
    error_message = "what its files leave"
  }
}

run "the_limit_may_be_given" {
  command = plan

  variables {
    scaling = { connections_limit = 40000 }
  }

  assert {
    condition     = local.environment.FANLIGHT__LIMITS__CONNECTIONS == "40000"
    error_message = "what is given"
  }
}

run "a_limit_below_the_target_is_refused" {
  command = plan

  variables {
    scaling = { connections_limit = 30000 }
  }

  expect_failures = [var.scaling]
}

run "the_server_api_is_for_those_who_ask" {
  command = plan

  assert {
    condition = (
      output.server_api_url == null
      && length([for name in concat(keys(local.environment), keys(local.secrets)) : name if strcontains(name, "API")]) == 0
      && length(aws_vpc_security_group_ingress_rule.server_api) + length(aws_service_discovery_service.server_api) == 0
      && length(aws_ecs_service.this.service_registries) == 0
    )
    error_message = "no option, no rule, no name"
  }
}

run "backends_reach_the_server_api_by_name_and_with_keys" {
  command = apply

  variables {
    server_api = {
      client_security_group_ids = { shop = "sg-shop" }
      domain                    = "fanlight.internal"
      keys = {
        shop = {
          secret       = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-1"
          scopes       = ["publish", "users"]
          destinations = ["/topic/orders.*", "/user/*/queue/orders"]
        }
        audit = {
          secret              = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:audit-1:key::"
          requests_per_second = 10
        }
      }
    }
  }

  assert {
    condition = { for name, value in local.environment : name => value if strcontains(name, "API") } == {
      FANLIGHT__LISTEN__API                       = "0.0.0.0:8081"
      FANLIGHT__API__KEYS__0__NAME                = "audit"
      FANLIGHT__API__KEYS__0__REQUESTS_PER_SECOND = "10"
      FANLIGHT__API__KEYS__1__NAME                = "shop"
      FANLIGHT__API__KEYS__1__SCOPES              = "publish,users"
      FANLIGHT__API__KEYS__1__DESTINATIONS        = "/topic/orders.*,/user/*/queue/orders"
    }
    error_message = "its listener, and who may do what"
  }
  assert {
    condition = { for name, arn in local.secrets : name => arn if strcontains(name, "API") } == {
      FANLIGHT__API__KEYS__0__SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:audit-1:key::"
      FANLIGHT__API__KEYS__1__SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-1"
    }
    error_message = "the keys come from Secrets Manager"
  }
  assert {
    condition     = contains(one([for statement in local.execution_statements : statement.Resource if statement.Sid == "ReadSecrets"]), "arn:aws:secretsmanager:eu-west-1:123456789012:secret:audit-1")
    error_message = "which ECS may read"
  }
  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.server_api["shop"].referenced_security_group_id == "sg-shop"
      && aws_vpc_security_group_ingress_rule.server_api["shop"].from_port == 8081
      && contains(local.gateway.portMappings[*].containerPort, 8081)
    )
    error_message = "only the shop reaches it"
  }
  assert {
    condition = (
      output.server_api_url == "http://api.fanlight.internal:8081"
      && aws_service_discovery_private_dns_namespace.server_api[0].name == "fanlight.internal"
      && aws_service_discovery_service.server_api[0].name == "api"
      && one(aws_ecs_service.this.service_registries).registry_arn == aws_service_discovery_service.server_api[0].arn
    )
    error_message = "the name has the tasks' addresses"
  }
}

run "a_server_api_without_keys_or_clients_is_refused" {
  command = plan

  variables {
    server_api = { client_security_group_ids = {}, domain = "internal", port = 9090, keys = {} }
  }

  expect_failures = [var.server_api]
}

run "some_tasks_may_be_on_spot" {
  command = plan

  variables {
    spot         = { percent = 70 }
    cluster_name = "shared"
  }

  assert {
    condition = { for strategy in aws_ecs_service.this.capacity_provider_strategy : strategy.capacity_provider => [coalesce(strategy.base, 0), strategy.weight] } == {
      FARGATE      = [2, 30]
      FARGATE_SPOT = [0, 70]
    }
    error_message = "two tasks, and 30 % of the others, are not on Spot"
  }
  assert {
    condition     = length(aws_ecs_cluster.this) == 0 && aws_ecs_service.this.cluster == "shared"
    error_message = "in a cluster that is there"
  }
}

run "what_is_given_wins" {
  command = plan

  variables {
    environment = { FANLIGHT__LOG__FORMAT = "pretty" }
  }

  assert {
    condition     = contains(local.gateway.environment, { name = "FANLIGHT__LOG__FORMAT", value = "pretty" })
    error_message = "an option of the user replaces ours"
  }
}

run "what_can_not_be_is_refused" {
  command = plan

  variables {
    name       = "Fanlight"
    subnet_ids = ["subnet-1"]
    load_balancer = {
      target_group_arn  = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl-1/1"
      security_group_id = "sg-alb"
      cidrs             = []
    }
    image              = "fanlight:latest"
    cpu_architecture   = "arm64"
    cpu                = 1000
    environment        = { PATH = "/" }
    secrets            = { FANLIGHT__AUTH__KEYS__0__SECRET = "a secret" }
    nofile             = 100
    stop_timeout_s     = 121
    spot               = { percent = 100, on_demand_base = 0 }
    container_insights = "on"
  }

  expect_failures = [
    var.name,
    var.subnet_ids,
    var.load_balancer,
    var.image,
    var.cpu_architecture,
    var.cpu,
    var.environment,
    var.secrets,
    var.nofile,
    var.stop_timeout_s,
    var.spot,
    var.container_insights,
  ]
}

run "spans_go_where_they_are_wanted_and_nowhere_by_default" {
  command = plan

  variables {
    traces = { endpoint = "https://otlp.example.com/v1/traces", connection_ratio = 0.001 }
  }

  assert {
    condition = { for name, value in local.environment : trimprefix(name, "FANLIGHT__TELEMETRY__TRACES__") => value if startswith(name, "FANLIGHT__TELEMETRY__TRACES__") } == {
      ENDPOINT                = "https://otlp.example.com/v1/traces"
      PUBLICATION_RATIO       = "0.01"
      PUBLICATIONS_PER_SECOND = "100"
      CONNECTION_RATIO        = "0.001"
    }
    error_message = "the options of traces"
  }
  assert {
    condition     = length(local.collectors) == 0
    error_message = "nothing beside the gateway"
  }
}

run "without_traces_no_option_of_them_is_set" {
  command = plan

  assert {
    condition     = length([for name in keys(local.environment) : name if strcontains(name, "TRACES")]) == 0
    error_message = "no traces unless asked for"
  }
}

run "spans_go_by_tls_only_and_ratios_are_parts" {
  command = plan

  variables {
    traces = { endpoint = "http://otlp.example.com:4318", publication_ratio = 2 }
  }

  expect_failures = [var.traces]
}

run "what_does_not_go_together_is_refused" {
  command = plan

  variables {
    memory_mib = 3072
    scaling    = { min = 4, max = 2, cpu_percent = 100 }
  }

  expect_failures = [var.memory_mib, var.scaling]
}

run "a_target_that_the_files_do_not_allow_is_refused" {
  command = plan

  variables {
    nofile  = 40000
    scaling = { connections_per_task = 30000 }
  }

  expect_failures = [var.scaling]
}
