"""Checks what ECS would be told to run: `check_tasks.py STATE.json ENVIRONMENT.json`.

STATE.json is `terraform show -json` after an apply. Container definitions are text to Terraform, so
that it does not see what is wrong in them; botocore's model of ECS knows every key and type. So is
the collector's configuration, which `check_collector` reads.
ENVIRONMENT.json gets the gateway's variables, with what its secrets hold, for its own check.
"""

import json
import sys

import botocore.session
import check_collector
from botocore.validate import ParamValidator


def resources(module):
    yield from module.get("resources", [])
    for child in module.get("child_modules", []):
        yield from resources(child)


def of_type(state, type_):
    every = resources(state["values"]["root_module"])
    return [resource["values"] for resource in every if resource["type"] == type_]


def problems(definitions):
    model = botocore.session.get_session().get_service_model("ecs")
    request = model.operation_model("RegisterTaskDefinition").input_shape
    report = ParamValidator().validate(definitions, request.members["containerDefinitions"])
    return report.generate_report()


def environment(container, secrets):
    return plain(container) | {secret["name"]: secrets[secret["valueFrom"]] for secret in container["secrets"]}


def plain(container):
    return {variable["name"]: variable["value"] for variable in container["environment"]}


def main():
    state_file, environment_file = sys.argv[1:]
    with open(state_file) as file:
        state = json.load(file)
    ids = {secret["id"]: secret["arn"] for secret in of_type(state, "aws_secretsmanager_secret")}
    versions = of_type(state, "aws_secretsmanager_secret_version")
    secrets = {ids[version["secret_id"]]: version["secret_string"] for version in versions}
    (task,) = of_type(state, "aws_ecs_task_definition")
    definitions = json.loads(task["container_definitions"])
    if found := problems(definitions):
        sys.exit(f"container definitions of {task['family']}:\n{found}")
    names = [definition["name"] for definition in definitions]
    print(f"container definitions: {', '.join(names)}: as ECS wants them")
    collector = plain(next(definition for definition in definitions if definition["name"] == "collector"))
    if found := check_collector.problems(collector["AOT_CONFIG_CONTENT"], collector):
        sys.exit("the collector's configuration:\n" + "\n".join(found))
    print("the collector's configuration: all that it names is there")
    gateway = next(definition for definition in definitions if definition["name"] == "gateway")
    with open(environment_file, "w") as file:
        json.dump(environment(gateway, secrets), file)


if __name__ == "__main__":
    main()
