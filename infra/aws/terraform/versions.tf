# Bucket, roles, and optionally machines for RigFace on Amazon. See docs/clusters.md.
terraform {
  required_version = ">= 1.9.0, < 2.0.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = "rigface" }
  }
}
