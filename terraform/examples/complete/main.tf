locals {
  # An image in ECR of the Region, and its repository. What is in another, or in public.ecr.aws, has no
  # endpoint here.
  in_ecr  = "^([0-9]{12})\\.dkr\\.ecr\\.${var.region}\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)[:@]"
  to_xray = var.traces != null && try(var.traces.endpoint, null) == null
}

module "network" {
  source = "../../modules/network"

  name   = var.name
  egress = var.egress
  interface_endpoints = concat(
    ["ecr.api", "ecr.dkr", "elasticloadbalancing", "logs", "secretsmanager"],
    var.prometheus ? ["aps-workspaces"] : [],
    local.to_xray ? ["xray"] : [],
  )
}

module "alb" {
  source = "../../modules/alb"

  name                = var.name
  vpc_id              = module.network.vpc_id
  subnet_ids          = module.network.public_subnet_ids
  certificate_arn     = var.certificate_arn
  deletion_protection = var.deletion_protection
  access_logs         = var.access_logs ? {} : null
  waf                 = var.waf ? {} : null
}

module "cache" {
  source = "../../modules/cache"

  name                = var.name
  vpc_id              = module.network.vpc_id
  subnet_ids          = module.network.private_subnet_ids
  node_type           = var.cache.node_type
  shards              = var.cache.shards
  replicas_per_shard  = var.cache.replicas_per_shard
  password_generation = var.cache.password_generation
  final_snapshot      = var.deletion_protection
}

module "service" {
  source = "../../modules/service"

  name       = var.name
  vpc_id     = module.network.vpc_id
  subnet_ids = module.network.private_subnet_ids

  image               = var.image
  ecr_repository_arns = var.ecr_repository_arns
  environment         = local.options
  scaling             = var.scaling
  rebalance           = var.rebalance
  spot                = { percent = var.spot_percent }
  prometheus          = module.observability.prometheus
  collector_image     = var.collector_image
  traces              = var.traces
  server_api          = local.server_api

  load_balancer = {
    target_group_arn  = module.alb.target_group_arn
    target_port       = module.alb.target_port
    security_group_id = module.alb.security_group_id
    cidrs             = module.network.public_cidrs
    idle_timeout_s    = module.alb.idle_timeout_s
    unhealthy_after_s = module.alb.unhealthy_after_s
  }

  cache = {
    url_secret_arn    = module.cache.url_secret_arn
    security_group_id = module.cache.security_group_id
    port              = module.cache.port
  }
}

module "observability" {
  source = "../../modules/observability"

  name           = var.name
  cache_node_ids = module.cache.node_ids
  prometheus     = var.prometheus
  grafana        = var.grafana
  alarm_emails   = var.alarm_emails

  load_balancer = {
    arn_suffix              = module.alb.arn_suffix
    target_group_arn_suffix = module.alb.target_group_arn_suffix
  }

  service = {
    cluster_name = module.service.cluster_name
    service_name = module.service.service_name
    min_tasks    = var.scaling.min
  }
}

resource "aws_route53_record" "this" {
  count = var.domain == null ? 0 : 1

  zone_id = var.domain.zone_id
  name    = var.domain.name
  type    = "A"

  alias {
    name                   = module.alb.dns_name
    zone_id                = module.alb.zone_id
    evaluate_target_health = true
  }
}
