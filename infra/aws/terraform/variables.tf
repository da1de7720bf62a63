variable "region" {
  description = "Where bucket and machines are."
  type        = string
  default     = "us-east-1"
}

variable "bucket" {
  description = "Name of the bucket; bucket names are unique in the world."
  type        = string
}

variable "namespace" {
  description = "Kubernetes namespace whose service accounts take the roles."
  type        = string
  default     = "rigface"
}

variable "oidc_provider_arn" {
  description = "IAM OIDC provider of the EKS cluster; empty: no role can be taken by a service account."
  type        = string
  default     = ""
}

variable "vm_cluster" {
  description = "Make what `ray up` needs: instance profiles and a security group."
  type        = bool
  default     = false
}

variable "vpc_id" {
  description = "Of the machines of `ray up`, and of the EKS cluster."
  type        = string
  default     = ""
}

variable "ssh_cidrs" {
  description = "Where SSH to the head may come from, such as [\"203.0.113.7/32\"]. Not the whole internet."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.ssh_cidrs, "0.0.0.0/0")
    error_message = "SSH from everywhere is refused: name the addresses it may come from."
  }
}

variable "eks_cluster" {
  description = "Name of an EKS cluster to add node groups to; empty: none."
  type        = string
  default     = ""
}

variable "eks_node_role_arn" {
  description = "Role of the nodes."
  type        = string
  default     = ""
}

variable "eks_subnet_ids" {
  description = "Subnets of the nodes; training uses the first one only."
  type        = list(string)
  default     = []
}
