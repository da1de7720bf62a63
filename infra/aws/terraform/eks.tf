# Optional: node groups of an EKS cluster that is there already, one per pool of infra/kuberay/components/pools. All start at
# nothing but `head`; the cluster autoscaler (or Karpenter instead of this file) makes nodes when pods wait for them.
locals {
  pools = var.eks_cluster == "" ? {} : {
    head  = { types = ["m6i.2xlarge"], spot = false, gpu = false, least = 1, most = 4 }
    cpu   = { types = ["m6i.4xlarge", "m5.4xlarge", "m6a.4xlarge"], spot = true, gpu = false, least = 0, most = 16 }
    gpu   = { types = ["g5.2xlarge", "g6.2xlarge"], spot = true, gpu = true, least = 0, most = 4 }
    serve = { types = ["g5.2xlarge"], spot = false, gpu = true, least = 0, most = 16 }
    train = { types = ["p4d.24xlarge"], spot = false, gpu = true, least = 0, most = 4 }
  }
}

resource "aws_placement_group" "train" {
  count    = var.eks_cluster == "" ? 0 : 1
  name     = "rigface-train"
  strategy = "cluster"
}

resource "aws_launch_template" "node" {
  for_each = local.pools

  name_prefix   = "rigface-${each.key}-"
  instance_type = length(each.value.types) == 1 ? each.value.types[0] : null

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # pods do not reach the node's own role
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_size = 300
      volume_type = "gp3"
      encrypted   = true
    }
  }

  # four EFA interfaces, one per network card of a p4d
  dynamic "network_interfaces" {
    for_each = each.key == "train" ? range(4) : []

    content {
      device_index          = network_interfaces.value == 0 ? 0 : 1
      network_card_index    = network_interfaces.value
      interface_type        = "efa"
      delete_on_termination = true
    }
  }

  dynamic "placement" {
    for_each = each.key == "train" ? aws_placement_group.train[*].name : []

    content {
      group_name = placement.value
    }
  }
}

resource "aws_eks_node_group" "pool" {
  for_each = local.pools

  cluster_name    = var.eks_cluster
  node_group_name = "rigface-${each.key}"
  node_role_arn   = var.eks_node_role_arn
  subnet_ids      = each.key == "train" ? slice(var.eks_subnet_ids, 0, 1) : var.eks_subnet_ids
  ami_type        = each.value.gpu ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD"
  capacity_type   = each.value.spot ? "SPOT" : "ON_DEMAND"
  instance_types  = length(each.value.types) == 1 ? null : each.value.types
  labels          = { "rigface/pool" = each.key }

  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }

  scaling_config {
    min_size     = each.value.least
    desired_size = each.value.least
    max_size     = each.value.most
  }

  dynamic "taint" {
    for_each = toset(concat(each.value.spot ? ["rigface/spot"] : [], each.value.gpu ? ["nvidia.com/gpu"] : []))

    content {
      key    = taint.value
      value  = "true"
      effect = "NO_SCHEDULE"
    }
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }
}
