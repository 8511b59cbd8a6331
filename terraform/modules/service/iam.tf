locals {
  account = data.aws_caller_identity.current.account_id
  region  = data.aws_region.current.region
  arn     = "arn:${data.aws_partition.current.partition}"

  # Confused deputies: only for tasks of this account.
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "${local.arn}:ecs:${local.region}:${local.account}:*" }
      }
    }]
  })

  execution_statements = [for statement in [
    {
      Sid      = "Log"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${aws_cloudwatch_log_group.this.arn}:*"]
    },
    {
      Sid    = "ReadSecrets"
      Action = ["secretsmanager:GetSecretValue"]
      # Without the key within the secret.
      Resource = distinct([for arn in values(local.secrets) : join(":", slice(split(":", arn), 0, min(7, length(split(":", arn)))))])
    },
    {
      Sid      = "DecryptSecrets"
      Action   = ["kms:Decrypt"]
      Resource = var.kms_key_arns
    },
    {
      Sid      = "PullImage"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = var.ecr_repository_arns
    },
    {
      # Has no resources to name.
      Sid      = "LogInToRegistry"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = length(var.ecr_repository_arns) > 0 ? ["*"] : []
    },
  ] : merge({ Effect = "Allow" }, statement) if length(statement.Resource) > 0]

  task_statements = [for statement in [
    {
      # Has no resources to name.
      Sid      = "SeeDeregistration"
      Action   = ["elasticloadbalancing:DescribeTargetHealth"]
      Resource = ["*"]
    },
    {
      Sid      = "ProtectTasks"
      Action   = ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]
      Resource = var.task_protection ? ["${local.arn}:ecs:${local.region}:${local.account}:task/${local.cluster_name}/*"] : []
    },
    {
      Sid      = "WriteMetrics"
      Action   = ["aps:RemoteWrite"]
      Resource = var.prometheus == null ? [] : [var.prometheus.workspace_arn]
    },
    {
      # Has no resources to name.
      Sid      = "WriteTraces"
      Action   = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
      Resource = local.to_xray ? ["*"] : []
    },
    {
      # Has no resources to name.
      Sid = "ExecuteCommand"
      Action = [
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      Resource = var.execute_command ? ["*"] : []
    },
  ] : merge({ Effect = "Allow" }, statement) if length(statement.Resource) > 0]
}

# For ECS: to start the containers.
resource "aws_iam_role" "execution" {
  name_prefix        = "${var.name}-execution-"
  assume_role_policy = local.assume_role_policy
}

resource "aws_iam_role_policy" "execution" {
  name   = "start"
  role   = aws_iam_role.execution.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.execution_statements })
}

# For what runs in them.
resource "aws_iam_role" "task" {
  name_prefix        = "${var.name}-task-"
  assume_role_policy = local.assume_role_policy
}

resource "aws_iam_role_policy" "task" {
  name   = "run"
  role   = aws_iam_role.task.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.task_statements })
}
