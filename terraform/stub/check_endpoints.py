"""Checks that tasks can start where only endpoints lead out: `check_endpoints.py STATE.json`.

STATE.json is `terraform show -json` after an apply. Every image is in ECR, in a repository that ECS may
pull from, and each service that the task asks has an endpoint; none has one that nobody asks.
"""

import json
import re
import sys

import yaml
from check_tasks import of_type, plain

# What ECS asks to start a task with secrets and a log, and image layers.
FOR_STARTING = {"ecr.api", "ecr.dkr", "logs", "secretsmanager", "s3"}
# What the gateway asks, by the option that has it ask.
FOR_OPTIONS = {"FANLIGHT__DRAIN__WATCH_TARGET_GROUP": "elasticloadbalancing"}
# What the collector's exporters ask.
FOR_EXPORTERS = {"prometheusremotewrite": "aps-workspaces", "awsxray": "xray"}
IN_ECR = r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com/([^:@]+)"


def problems(state):
    if of_type(state, "aws_nat_gateway"):
        yield "there is a way out"
    (task,) = of_type(state, "aws_ecs_task_definition")
    containers = json.loads(task["container_definitions"])
    for container in containers:
        repository = re.match(IN_ECR, container["image"])
        if not repository:
            yield f"{container['name']}: {container['image']} is not in ECR"
        elif not any(arn.endswith(f":repository/{repository[1]}") for arn in may_be_pulled(state)):
            yield f"{container['name']}: {container['image']} may not be pulled"
    needed = FOR_STARTING | {FOR_EXPORTERS[name] for each in containers for name in exporters(each)}
    needed |= {FOR_OPTIONS[name] for each in containers for name in plain(each) if name in FOR_OPTIONS}
    there = {endpoint["service_name"].split(".", 3)[3] for endpoint in of_type(state, "aws_vpc_endpoint")}
    if there != needed:
        yield f"no endpoint: {sorted(needed - there)}; endpoints for nobody: {sorted(there - needed)}"


def may_be_pulled(state):
    for policy in of_type(state, "aws_iam_role_policy"):
        for statement in json.loads(policy["policy"])["Statement"]:
            if "ecr:BatchGetImage" in statement["Action"]:
                yield from statement["Resource"]


def exporters(container):
    text = plain(container).get("AOT_CONFIG_CONTENT", "{}")
    return yaml.safe_load(text).get("exporters", {})


def main():
    with open(sys.argv[1]) as file:
        state = json.load(file)
    if found := list(problems(state)):
        sys.exit("with endpoints only:\n" + "\n".join(found))
    print("with endpoints only, tasks find their images and AWS' services")


if __name__ == "__main__":
    main()
