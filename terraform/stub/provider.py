"""A provider that has every schema and no cloud: `provider.py NAME=SCHEMA.json ... -- COMMAND`.

Runs COMMAND with TF_REATTACH_PROVIDERS set to providers of these names, served here. Terraform
itself then finds arguments that don't exist, are missing or of the wrong type, and plans and
applies as far as that can be told without AWS: what only AWS knows is unknown in a plan, and
made up when applied (`made_up.py`). Values that AWS would refuse are not noticed.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent import futures

import grpc
import msgpack
from tf.gen import grpc_controller_pb2 as controller
from tf.gen import grpc_controller_pb2_grpc as controller_grpc
from tf.gen import grpc_stdio_pb2_grpc as stdio_grpc
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as pb_grpc

import made_up

UNKNOWN = msgpack.ExtType(0, b"\0")
NESTING = {"single": "SINGLE", "list": "LIST", "set": "SET", "map": "MAP"}


class Provider(pb_grpc.ProviderServicer):
    def __init__(self, schemas):
        self.resources = schemas["resources"]
        self.data_sources = schemas["data_sources"]
        self.schema = pb.GetProviderSchema.Response(
            provider=schema(schemas["provider"]),
            resource_schemas={name: schema(of) for name, of in self.resources.items()},
            data_source_schemas={name: schema(of) for name, of in self.data_sources.items()},
        )

    def GetProviderSchema(self, request, context):
        return self.schema

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return pb.ConfigureProvider.Response()

    def GetFunctions(self, request, context):
        return pb.GetFunctions.Response()

    def UpgradeResourceState(self, request, context):
        state = encode(json.loads(request.raw_state.json))
        return pb.UpgradeResourceState.Response(upgraded_state=state)

    def ReadResource(self, request, context):
        return pb.ReadResource.Response(new_state=request.current_state)

    def ReadDataSource(self, request, context):
        state = decode(request.config)
        for name in readable(self.data_sources[request.type_name]):
            if state.get(name) is None:
                state[name] = UNKNOWN
        return pb.ReadDataSource.Response(state=self.filled(request.type_name, state, True))

    def PlanResourceChange(self, request, context):
        proposed = decode(request.proposed_new_state)
        if proposed is not None and decode(request.prior_state) is None:
            for name in readable(self.resources[request.type_name]):
                if proposed.get(name) is None:
                    proposed[name] = UNKNOWN
        return pb.PlanResourceChange.Response(planned_state=encode(proposed))

    def ApplyResourceChange(self, request, context):
        planned = decode(request.planned_state)
        return pb.ApplyResourceChange.Response(
            new_state=self.filled(request.type_name, planned, False)
        )

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()

    def filled(self, type_name, state, is_data):
        schemas = self.data_sources if is_data else self.resources
        attributes = schemas[type_name]["attributes"]
        for name, value in (state or {}).items():
            if isinstance(value, msgpack.ExtType):
                type_ = attributes[name]["type"]
                state[name] = made_up.value(type_name, name, type_, state, is_data)
        return encode(state)


class Controller(controller_grpc.GRPCControllerServicer):
    """Terraform says when it is done with a plugin; this one serves the next command too."""

    def Shutdown(self, request, context):
        return controller.Empty()


class Stdio(stdio_grpc.GRPCStdioServicer):
    def StreamStdio(self, request, context):
        return iter([])


def readable(schema):
    return [name for name, of in schema["attributes"].items() if of["computed"]]


def schema(of):
    return pb.Schema(block=block(of))


def block(of):
    attributes = [
        pb.Schema.Attribute(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            required=attribute["required"],
            optional=attribute["optional"],
            computed=attribute["computed"],
            sensitive=attribute.get("sensitive", False),
        )
        for name, attribute in of["attributes"].items()
    ]
    blocks = [
        pb.Schema.NestedBlock(
            type_name=name,
            nesting=pb.Schema.NestedBlock.NestingMode.Value(NESTING[nested["nesting"]]),
            min_items=nested["min"],
            max_items=nested["max"],
            block=block(nested["block"]),
        )
        for name, nested in of["blocks"].items()
    ]
    return pb.Schema.Block(attributes=attributes, block_types=blocks)


def decode(value):
    return msgpack.unpackb(value.msgpack, strict_map_key=False) if value.msgpack else None


def encode(value):
    return pb.DynamicValue(msgpack=msgpack.packb(value))


def serve(schemas, socket):
    # A schema of all of AWS has several megabytes.
    server = grpc.server(
        futures.ThreadPoolExecutor(), options=[("grpc.max_send_message_length", 256 << 20)]
    )
    pb_grpc.add_ProviderServicer_to_server(Provider(schemas), server)
    controller_grpc.add_GRPCControllerServicer_to_server(Controller(), server)
    stdio_grpc.add_GRPCStdioServicer_to_server(Stdio(), server)
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    return server


def main():
    end = sys.argv.index("--")
    named, command = sys.argv[1:end], sys.argv[end + 1 :]
    reattach, servers = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (argument.split("=", 1) for argument in named):
            with open(path) as file:
                socket = os.path.join(folder, f"{name}.sock")
                servers.append(serve(json.load(file), socket))
            reattach[f"registry.terraform.io/hashicorp/{name}"] = {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "unix", "String": socket},
            }
        environment = os.environ | {"TF_REATTACH_PROVIDERS": json.dumps(reattach)}
        status = subprocess.run(command, env=environment).returncode
        for server in servers:
            server.stop(grace=None)
    return status


if __name__ == "__main__":
    sys.exit(main())
