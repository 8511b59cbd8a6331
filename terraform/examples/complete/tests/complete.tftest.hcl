# With the options of example.tfvars.json: `terraform test -var-file=example.tfvars.json`.

run "without_a_way_out_every_image_is_in_ecr" {
  command = plan

  variables {
    egress = "endpoints"
  }

  expect_failures = [var.image, var.collector_image]
}

run "a_repository_that_tasks_may_not_pull_from_is_refused" {
  command = plan

  variables {
    egress              = "endpoints"
    image               = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fanlight:0.1.0"
    collector_image     = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mirror/aws-otel-collector:v0.43.3"
    ecr_repository_arns = ["arn:aws:ecr:eu-west-1:123456789012:repository/fanlight"]
  }

  expect_failures = [var.ecr_repository_arns]
}

run "without_a_way_out_no_vendor_of_traces_is_reached" {
  command = plan

  variables {
    egress              = "endpoints"
    prometheus          = false
    grafana             = false
    image               = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/fanlight:0.1.0"
    ecr_repository_arns = ["arn:aws:ecr:eu-west-1:123456789012:repository/fanlight"]
    traces              = { endpoint = "https://otlp.example.com" }
  }

  expect_failures = [var.traces]
}
