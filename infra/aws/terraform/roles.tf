# Two roles: jobs read videos and models and write what they make; the service reads models and keeps its jobs. Neither can
# see another bucket, delete a version for good, or change the bucket.
locals {
  oidc_issuer = element(split("oidc-provider/", "${var.oidc_provider_arn}oidc-provider/"), 1)
  accounts    = toset(["jobs", "serve"])

  seen_by_jobs = ["videos", "manifests", "models", "faces", "pairs", "latents", "runs"]
}

data "aws_iam_policy_document" "jobs" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.data.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = flatten([for name in local.seen_by_jobs : [name, "${name}/*"]])
    }
  }

  statement {
    sid       = "Where"
    actions   = ["s3:GetBucketLocation"]
    resources = [aws_s3_bucket.data.arn]
  }

  statement {
    sid     = "Read"
    actions = ["s3:GetObject"]
    resources = [
      "${aws_s3_bucket.data.arn}/videos/*",
      "${aws_s3_bucket.data.arn}/manifests/*",
      "${aws_s3_bucket.data.arn}/models/*",
    ]
  }

  statement {
    sid = "ReadAndWrite"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
      "s3:ListMultipartUploadParts",
    ]
    resources = [
      "${aws_s3_bucket.data.arn}/faces/*",
      "${aws_s3_bucket.data.arn}/pairs/*",
      "${aws_s3_bucket.data.arn}/latents/*",
      "${aws_s3_bucket.data.arn}/runs/*",
    ]
  }

  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.data.arn]
  }
}

data "aws_iam_policy_document" "serve" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.data.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["models", "models/*", "jobs", "jobs/*"]
    }
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.data.arn}/models/*"]
  }

  statement {
    sid       = "ReadAndWrite"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.data.arn}/jobs/*"]
  }

  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.data.arn]
  }
}

resource "aws_iam_policy" "jobs" {
  name   = "rigface-jobs"
  policy = data.aws_iam_policy_document.jobs.json
}

resource "aws_iam_policy" "serve" {
  name   = "rigface-serve"
  policy = data.aws_iam_policy_document.serve.json
}

# Taken by exactly one service account each.
data "aws_iam_policy_document" "trust" {
  for_each = var.oidc_provider_arn == "" ? toset([]) : local.accounts

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:rigface-${each.key}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "pods" {
  for_each = data.aws_iam_policy_document.trust

  name                 = "rigface-${each.key}"
  assume_role_policy   = each.value.json
  max_session_duration = 43200
}

resource "aws_iam_role_policy_attachment" "pods" {
  for_each = aws_iam_role.pods

  role       = each.value.name
  policy_arn = each.key == "jobs" ? aws_iam_policy.jobs.arn : aws_iam_policy.serve.arn
}
