# For `ray up`: what the head may do to machines, what workers may do to the bucket, and who may reach them.
locals {
  vm = var.vm_cluster ? 1 : 0
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  ec2 = "arn:${data.aws_partition.current.partition}:ec2:${var.region}:${data.aws_caller_identity.current.account_id}"
}

data "aws_iam_policy_document" "machines" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# The autoscaler on the head starts machines, and ends those that carry its cluster's tag.
data "aws_iam_policy_document" "autoscaler" {
  statement {
    sid = "Look"
    actions = [
      "ec2:DescribeImages",
      "ec2:DescribeInstances",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeKeyPairs",
      "ec2:DescribeSecurityGroups",
      "ec2:DescribeSubnets",
    ]
    resources = ["*"] # EC2 knows no finer resource for looking

    condition {
      test     = "StringEquals"
      variable = "aws:RequestedRegion"
      values   = [var.region]
    }
  }

  statement {
    sid     = "Start"
    actions = ["ec2:RunInstances"]
    resources = [
      "${local.ec2}:instance/*",
      "${local.ec2}:volume/*",
      "${local.ec2}:network-interface/*",
      "${local.ec2}:key-pair/*",
      "${local.ec2}:subnet/*",
      "${local.ec2}:security-group/${one(aws_security_group.ray[*].id)}",
      "arn:${data.aws_partition.current.partition}:ec2:${var.region}::image/*",
    ]
  }

  statement {
    sid       = "Tag"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.ec2}:instance/*", "${local.ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/ray-cluster-name"
      values   = ["rigface"]
    }
  }

  statement {
    sid       = "TagAndEnd"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["${local.ec2}:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = ["rigface"]
    }
  }

  statement {
    sid       = "HandOn"
    actions   = ["iam:PassRole"]
    resources = aws_iam_role.machine[*].arn

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "machine" {
  count              = local.vm
  name               = "rigface-worker"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_role" "head" {
  count              = local.vm
  name               = "rigface-head"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_policy" "autoscaler" {
  count  = local.vm
  name   = "rigface-autoscaler"
  policy = data.aws_iam_policy_document.autoscaler.json
}

resource "aws_iam_role_policy_attachment" "head_autoscaler" {
  count      = local.vm
  role       = aws_iam_role.head[0].name
  policy_arn = aws_iam_policy.autoscaler[0].arn
}

resource "aws_iam_role_policy_attachment" "head_jobs" {
  count      = local.vm
  role       = aws_iam_role.head[0].name
  policy_arn = aws_iam_policy.jobs.arn
}

resource "aws_iam_role_policy_attachment" "worker_jobs" {
  count      = local.vm
  role       = aws_iam_role.machine[0].name
  policy_arn = aws_iam_policy.jobs.arn
}

resource "aws_iam_role_policy_attachment" "pull" {
  for_each = toset(concat(aws_iam_role.head[*].name, aws_iam_role.machine[*].name))

  role       = each.value
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly"
}

resource "aws_iam_instance_profile" "head" {
  count = local.vm
  name  = "rigface-head"
  role  = aws_iam_role.head[0].name
}

resource "aws_iam_instance_profile" "worker" {
  count = local.vm
  name  = "rigface-worker"
  role  = aws_iam_role.machine[0].name
}

# Machines reach each other on any port, SSH is open to the named networks only.
resource "aws_security_group" "ray" {
  count       = local.vm
  name        = "rigface-ray"
  description = "Nodes of a Ray cluster"
  vpc_id      = var.vpc_id

  ingress {
    description = "each other"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    self        = true
  }

  dynamic "ingress" {
    for_each = length(var.ssh_cidrs) > 0 ? [1] : []

    content {
      description = "ssh"
      from_port   = 22
      to_port     = 22
      protocol    = "tcp"
      cidr_blocks = var.ssh_cidrs
    }
  }

  egress {
    description = "storage, registry, packages"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}
