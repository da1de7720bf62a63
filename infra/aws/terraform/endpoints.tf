# Addresses of S3 and STS inside the network, so that pods need none outside: the overlay lets them reach the network's range alone.
locals {
  endpoints = toset(var.eks_cluster == "" ? [] : ["s3", "sts"])
}

data "aws_vpc" "this" {
  count = length(local.endpoints) > 0 ? 1 : 0
  id    = var.vpc_id
}

resource "aws_security_group" "endpoints" {
  count       = length(local.endpoints) > 0 ? 1 : 0
  name        = "rigface-endpoints"
  description = "HTTPS from the network"
  vpc_id      = var.vpc_id

  ingress {
    description = "https"
    from_port   = 443
    to_port     = 443
    protocol    = "tcp"
    cidr_blocks = data.aws_vpc.this[*].cidr_block
  }
}

resource "aws_vpc_endpoint" "this" {
  for_each            = local.endpoints
  vpc_id              = var.vpc_id
  service_name        = "com.amazonaws.${var.region}.${each.value}"
  vpc_endpoint_type   = "Interface"
  subnet_ids          = var.eks_subnet_ids
  security_group_ids  = aws_security_group.endpoints[*].id
  private_dns_enabled = true

  dynamic "dns_options" {
    for_each = each.value == "s3" ? [1] : []

    content {
      private_dns_only_for_inbound_resolver_endpoint = false
    }
  }
}
