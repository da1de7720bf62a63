output "bucket" {
  description = "For the entrypoints of infra/kuberay and the commands of `rigface submit`."
  value       = aws_s3_bucket.data.id
}

output "role_arns" {
  description = "For the service accounts of infra/kuberay/overlays/aws-gpu."
  value       = { for name, role in aws_iam_role.pods : name => role.arn }
}

output "instance_profile_arns" {
  description = "For infra/aws/cluster.yaml."
  value = {
    head   = one(aws_iam_instance_profile.head[*].arn)
    worker = one(aws_iam_instance_profile.worker[*].arn)
  }
}

output "security_group_id" {
  description = "For infra/aws/cluster.yaml."
  value       = one(aws_security_group.ray[*].id)
}
