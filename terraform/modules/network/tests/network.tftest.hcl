mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-west-1a", "eu-west-1b", "eu-west-1c"] }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-west-1" }
  }
}

variables {
  name = "fanlight"
}

run "each_zone_has_its_own_way_out" {
  command = plan

  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_route.nat) == 3
    error_message = "a NAT gateway and a route for each of three zones"
  }
  assert {
    condition = (
      local.private_cidrs["eu-west-1c"] == "10.20.32.0/20"
      && local.public_cidrs["eu-west-1c"] == "10.20.242.0/24"
    )
    error_message = "private subnets are the first sixteenths, public ones are cut from the last"
  }
  assert {
    condition     = !anytrue([for subnet in aws_subnet.public : coalesce(subnet.map_public_ip_on_launch, false)])
    error_message = "nothing gets a public address without being asked to have one"
  }
  assert {
    condition     = length(coalesce(aws_default_security_group.this.ingress, [])) == 0 && length(coalesce(aws_default_security_group.this.egress, [])) == 0
    error_message = "the default security group allows nothing"
  }
  assert {
    condition     = aws_flow_log.this[0].traffic_type == "REJECT"
    error_message = "what was rejected is recorded"
  }
  assert {
    condition     = length(aws_vpc_endpoint.interface) == 0 && aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway"
    error_message = "with NAT, only S3 has an endpoint"
  }
}

run "one_nat_gateway_serves_all_zones" {
  command = plan

  variables {
    egress = "single_nat"
  }

  assert {
    condition     = keys(aws_nat_gateway.this) == ["eu-west-1a"] && length(aws_route.nat) == 3
    error_message = "one NAT gateway, and a route to it from each of three zones"
  }
}

run "endpoints_leave_no_way_out" {
  command = plan

  variables {
    egress     = "endpoints"
    zone_count = 2
    flow_logs  = "NONE"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 0 && length(aws_eip.nat) == 0 && length(aws_route.nat) == 0
    error_message = "no NAT gateway and no route out"
  }
  assert {
    condition = (
      keys(aws_vpc_endpoint.interface) == ["ecr.api", "ecr.dkr", "elasticloadbalancing", "logs", "secretsmanager"]
      && aws_vpc_endpoint.interface["logs"].service_name == "com.amazonaws.eu-west-1.logs"
      && aws_vpc_endpoint.interface["logs"].private_dns_enabled
    )
    error_message = "an endpoint for each service that a task needs"
  }
  assert {
    condition = alltrue([
      for rule in aws_vpc_security_group_ingress_rule.endpoints :
      rule.from_port == 443 && rule.to_port == 443 && rule.cidr_ipv4 != "0.0.0.0/0"
    ])
    error_message = "endpoints are reached by HTTPS from the private subnets only"
  }
  assert {
    condition     = length(aws_flow_log.this) == 0 && length(aws_iam_role.flow_logs) == 0
    error_message = "no flow logs, and no role for them"
  }
}

run "the_smallest_range_has_room_for_a_load_balancer" {
  command = plan

  variables {
    cidr       = "10.20.0.0/19"
    zone_count = 3
  }

  # AWS wants /27 at least, with eight addresses free.
  assert {
    condition     = alltrue([for subnet in aws_subnet.public : tonumber(split("/", subnet.cidr_block)[1]) <= 27])
    error_message = "public subnets of /27"
  }
  assert {
    condition     = aws_subnet.public["eu-west-1c"].cidr_block == "10.20.30.64/27" && aws_subnet.private["eu-west-1c"].cidr_block == "10.20.4.0/23"
    error_message = "cut as those of larger ranges are"
  }
}

run "a_range_without_room_for_a_load_balancer_is_refused" {
  command = plan

  variables {
    cidr = "10.20.0.0/20"
  }

  expect_failures = [var.cidr]
}

run "what_can_not_be_is_refused" {
  command = plan

  variables {
    name       = "Fanlight_1"
    cidr       = "10.20.0.0/24"
    zone_count = 1
    egress     = "none"
    flow_logs  = "all"
  }

  expect_failures = [var.name, var.cidr, var.zone_count, var.egress, var.flow_logs]
}
