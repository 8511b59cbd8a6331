"""What AWS would have answered, made up: values of the right types, and like AWS' where it counts."""

import hashlib

REGION, ACCOUNT = "eu-west-1", "123456789012"

# What data sources tell of an account.
DATA = {
    "aws_availability_zones": {"names": [f"{REGION}{zone}" for zone in "abc"]},
    "aws_caller_identity": {"account_id": ACCOUNT},
    "aws_partition": {"partition": "aws", "dns_suffix": "amazonaws.com"},
    "aws_region": {"region": REGION},
}


# What stands before the name in an ARN, where it is not the resource's type and a slash.
ARNS = {
    "aws_lb_target_group": "targetgroup/fl/",
    "aws_secretsmanager_secret": "secret:",
}

# Services that Terraform calls otherwise than ARNs do.
SERVICES = {"lb": "elasticloadbalancing"}


def value(type_name, name, type_, state, is_data):
    """A value of `type_` for the attribute `name` of the resource or data source `state`."""
    if is_data and name in DATA.get(type_name, {}):
        return DATA[type_name][name]
    kind = type_[0] if isinstance(type_, list) else type_
    if kind in ("list", "set"):
        return []
    if kind == "map":
        return {}
    if kind == "object":
        return {field: value(type_name, field, of, state, is_data) for field, of in type_[1].items()}
    if kind == "number":
        return 1
    if kind == "bool":
        return False
    return text(type_name, name, state)


def text(type_name, name, state):
    # A secret's id is its ARN, and each of its versions has that too.
    if (type_name, name) == ("aws_secretsmanager_secret", "id"):
        return state["arn"]
    if (type_name, name) == ("aws_secretsmanager_secret_version", "arn"):
        return state["secret_id"]
    service = type_name.split("_")[1]
    service = SERVICES.get(service, service)
    called = next(
        (state[key] for key in ("name", "family", "user_id") if isinstance(state.get(key), str)),
        hashlib.sha256(repr((type_name, sorted(state.items(), key=str))).encode()).hexdigest()[:17],
    )
    if name == "region":
        return REGION
    if name == "result":
        return called.ljust(state.get("length") or 0, "0")[: state.get("length")]
    if name.endswith("arn"):
        kind = ARNS.get(type_name, type_name.removeprefix("aws_") + "/")
        return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{kind}{called}"
    if name.endswith(("endpoint", "address", "dns_name")):
        return f"{called}.{service}.{REGION}.amazonaws.com"
    return f"{name}-{called}"
