output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "public_subnet_ids" {
  description = "For the load balancer: one a zone."
  value       = [for zone in local.zones : aws_subnet.public[zone].id]
}

output "public_cidrs" {
  description = "The ranges of the public subnets, from which the load balancer connects to tasks."
  value       = [for zone in local.zones : local.public_cidrs[zone]]
}

output "private_subnet_ids" {
  description = "For tasks and cache: one a zone."
  value       = [for zone in local.zones : aws_subnet.private[zone].id]

  # What starts in them needs its way out.
  depends_on = [
    aws_route.internet,
    aws_route.nat,
    aws_route_table_association.private,
    aws_route_table_association.public,
    aws_vpc_endpoint.interface,
    aws_vpc_endpoint.s3,
    aws_vpc_security_group_ingress_rule.endpoints,
  ]
}

output "private_cidrs" {
  description = "The ranges of the private subnets."
  value       = [for zone in local.zones : local.private_cidrs[zone]]
}

output "nat_addresses" {
  description = "The addresses that tasks come from outside, for the allow-lists of others."
  value       = [for address in aws_eip.nat : address.public_ip]
}
