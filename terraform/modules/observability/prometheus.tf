resource "aws_prometheus_workspace" "this" {
  count = var.prometheus ? 1 : 0

  alias       = var.name
  kms_key_arn = var.kms_key_arn

  logging_configuration {
    log_group_arn = "${aws_cloudwatch_log_group.prometheus[0].arn}:*"
  }
}

# What rules and the alert manager could not do.
resource "aws_cloudwatch_log_group" "prometheus" {
  count = var.prometheus ? 1 : 0

  name              = "/aws/vendedlogs/${var.name}/prometheus"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

data "aws_caller_identity" "current" {}

resource "aws_grafana_workspace" "this" {
  count = var.grafana ? 1 : 0

  name                     = var.name
  account_access_type      = "CURRENT_ACCOUNT"
  authentication_providers = ["AWS_SSO"]
  permission_type          = "CUSTOMER_MANAGED"
  data_sources             = ["PROMETHEUS", "CLOUDWATCH"]
  role_arn                 = aws_iam_role.grafana[0].arn
}

resource "aws_iam_role" "grafana" {
  count = var.grafana ? 1 : 0

  name_prefix = "${var.name}-grafana-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "grafana.amazonaws.com" }
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "grafana" {
  count = var.grafana ? 1 : 0

  name = "read"
  role = aws_iam_role.grafana[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ReadPrometheus"
        Effect   = "Allow"
        Action   = ["aps:DescribeWorkspace", "aps:GetLabels", "aps:GetMetricMetadata", "aps:GetSeries", "aps:QueryMetrics"]
        Resource = [aws_prometheus_workspace.this[0].arn]
      },
      {
        # Have no resources to name.
        Sid    = "ReadCloudWatch"
        Effect = "Allow"
        Action = [
          "aps:ListWorkspaces",
          "cloudwatch:DescribeAlarms",
          "cloudwatch:GetMetricData",
          "cloudwatch:ListMetrics",
          "ec2:DescribeRegions",
          "tag:GetResources",
        ]
        Resource = ["*"]
      },
    ]
  })
}
