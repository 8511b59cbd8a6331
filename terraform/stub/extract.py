"""Reads a provider's schema out of its CDKTF package: `extract.py PACKAGE.tgz SCHEMA.json`.

Providers can't be had offline, but the npm packages that CDK for Terraform generates from them
hold all that their schemas do: which arguments and blocks there are, of which types, which must
be set, and what can only be read. What is missing is which of the optional arguments get a value
of the provider's own when unset: here none does, but for a few that always do. Blocks that may
nest without end are left out too: `missing.json` has what is used of those.
"""

import collections
import json
import pathlib
import re
import sys
import tarfile

PRIMITIVES = {"string": "string", "boolean": "bool", "number": "number", "any": "string"}

# Optional arguments that the provider fills in, of whatever resource has them.
FILLED_IN = {"id", "region", "tags_all"}

# Packages don't tell what is sensitive; of these it matters, as it must not get into outputs.
SENSITIVE = {"random_password": {"result", "bcrypt_hash"}}

ARGUMENT = re.compile(
    r"^\s*(?P<name>\w+): \{\s*value: (?P<value>.*?),\s*isBlock: (?P<block>true|false),"
    r'\s*type: "(?P<kind>\w+)",\s*storageClassType: "(?P<storage>\w+)",\s*\}',
    re.M,
)
FUNCTION = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", re.M | re.S)
CLASS = re.compile(r"^class (\w+) extends [^{]*\{(.*?)^\}", re.M | re.S)
INTERFACE = re.compile(r"^export interface (\w+)[^{]*\{(.*?)^\}", re.M | re.S)
DECLARED = re.compile(r"#(\w+) \w+#\w+\}.*?\*/\s*readonly \w+(\??):", re.S)
READ_SIMPLE = re.compile(r"return (?:cdktf\.Fn\.tolist\()?this\.get(\w+?)Attribute\('(\w+)'\)")
READ_OBJECTS = re.compile(r'= new (\w+)List\(this, "(\w+)", (true|false)\)')
READ_MAP = re.compile(r'= new cdktf\.StringMap\(this, "(\w+)"')
READ_TYPES = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
}


class Module:
    """One resource, data source, or the provider's own configuration."""

    def __init__(self, script, declarations):
        self.functions = dict(FUNCTION.findall(script))
        self.classes = dict(CLASS.findall(script))
        self.required = {
            name: {argument for argument, optional in DECLARED.findall(body) if not optional}
            for name, body in INTERFACE.findall(declarations)
        }
        self.construct = next(
            name for name, body in self.classes.items() if "synthesizeHclAttributes" in body
        )
        of = re.search(r'tfResourceType = "(\w+)"', script)
        self.type = of.group(1) if of else None

    def provider(self):
        schema = self.arguments()
        schema["attributes"].pop("alias", None)
        return schema

    def resource(self):
        schema = self.arguments()
        attributes, body = schema["attributes"], self.classes[self.construct]
        for name, kind in self.readable(body).items():
            if name not in schema["blocks"]:
                attributes.setdefault(name, attribute(kind, computed=True))
        attributes.setdefault("id", attribute("string", computed=True))
        for name in FILLED_IN & attributes.keys():
            attributes[name]["computed"] = not attributes[name]["required"]
        for name in SENSITIVE.get(self.type, ()):
            attributes[name]["sensitive"] = True
        return schema

    def arguments(self):
        body = self.classes[self.construct]
        body = body[body.index("synthesizeHclAttributes") :]
        return self.block(body, f"{self.construct}Config")

    def block(self, body, interface):
        required = self.required.get(interface, set())
        attributes, blocks = {}, {}
        for argument in ARGUMENT.finditer(body):
            name, kind = argument["name"], argument["kind"]
            inner = self.inner(argument["value"])
            if argument["block"] == "true" and inner:
                counted = kind in ("list", "set")
                blocks[name] = {
                    "nesting": "single" if kind == "struct" else kind,
                    "min": int(counted and name in required),
                    "max": int(counted and argument["value"].startswith(inner)),
                    "block": self.block(self.functions[inner], inner[0].upper() + inner[1:]),
                }
            else:
                type_ = self.argument_type(argument)
                attributes[name] = attribute(
                    type_, required=name in required, optional=name not in required
                )
        return {"attributes": attributes, "blocks": blocks}

    def inner(self, value):
        """The function that renders what an argument consists of, if it is structured."""
        names = re.findall(r"(?<![\w.])(\w+)ToHclTerraform\b", re.sub(r"cdktf\.\w+", "", value))
        return next((name for name in names if name in self.functions), None)

    def argument_type(self, argument):
        kind, inner = argument["kind"], self.inner(argument["value"])
        if inner:
            fields = ARGUMENT.finditer(self.functions[inner])
            object_ = ["object", {field["name"]: self.argument_type(field) for field in fields}]
            return object_ if kind == "struct" else [kind, object_]
        element = re.match(r"(string|boolean|number|any)", argument["storage"])
        element = PRIMITIVES[element.group(1)] if element else "string"
        if kind == "simple":
            return element
        return ["map", element] if kind == "struct" else [kind, element]

    def readable(self, body):
        """The types of what can be read of a construct."""
        types = {name: READ_TYPES.get(kind, "string") for kind, name in READ_SIMPLE.findall(body)}
        for name in READ_MAP.findall(body):
            types[name] = ["map", "string"]
        for of, name, is_set in READ_OBJECTS.findall(body):
            if item := self.classes.get(f"{of}OutputReference"):
                types[name] = ["set" if is_set == "true" else "list", ["object", self.readable(item)]]
        return types


def attribute(type_, required=False, optional=False, computed=False):
    return {"type": type_, "required": required, "optional": optional, "computed": computed}


def extract(package):
    files = collections.defaultdict(dict)
    with tarfile.open(package) as archive:
        for member in archive:
            path = member.name.split("/")
            if path[1] == "lib" and len(path) == 4 and path[3] in ("index.js", "index.d.ts"):
                files[path[2]][path[3]] = archive.extractfile(member).read().decode()
    schemas = {"provider": None, "resources": {}, "data_sources": {}}
    for folder, texts in sorted(files.items()):
        if "synthesizeHclAttributes" not in texts["index.js"]:
            continue
        module = Module(texts["index.js"], texts["index.d.ts"])
        if folder == "provider":
            schemas["provider"] = module.provider()
        elif folder.startswith("data-"):
            schemas["data_sources"][module.type] = module.resource()
        else:
            schemas["resources"][module.type] = module.resource()
    add_missing(schemas["resources"])
    return schemas


def add_missing(resources):
    """Resource type -> a block of it -> what that block lacks."""
    missing = json.loads(pathlib.Path(__file__).with_name("missing.json").read_text())
    for type_, blocks in missing.items():
        for name, lacking in blocks.items() if type_ in resources else ():
            block = resources[type_]["blocks"][name]["block"]
            block["blocks"] |= lacking
            for replaced in lacking:
                block["attributes"].pop(replaced, None)


if __name__ == "__main__":
    package, schema = sys.argv[1:]
    with open(schema, "w") as out:
        json.dump(extract(package), out, separators=(",", ":"))
