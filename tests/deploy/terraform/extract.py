"""Write `schema.json`: what Terraform's google provider takes, of the resources that the module uses.

The provider itself can be had from Terraform's registry alone; its schema ships in the package of CDK for Terraform
(npm: @cdktf/provider-google), generated from the provider by HashiCorp. `extract.py cdktf-provider-google-16.12.1.tgz`.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODULE = HERE.parents[2] / "deploy" / "terraform"
KINDS = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "Set": ["set", "string"],
}
_CLASS = re.compile(r"^class (\w+) extends cdktf\.(\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_GETTER = re.compile(
    r"get (\w+)\(\) \{\s+return (?:cdktf\.Fn\.tolist\()?this\.(?:interpolationForAttribute|get(\w+)Attribute)\('(\w+)'\)"
)
_BLOCK = re.compile(r'this\._(\w+) = new (\w+)\(this, "(\w+)"(?:, (true|false))?\)')


def parse(text: str) -> dict[str, Any]:
    """Return the schema of the resource in one of the package's files."""
    classes = {name: (base, body) for name, base, body in _CLASS.findall(text)}
    ((top, _),) = [
        (name, base) for name, (base, _) in classes.items() if base in {"TerraformResource", "TerraformDataSource"}
    ]
    return block(classes, top)


def block(classes: dict[str, tuple[str, str]], name: str) -> dict[str, Any]:
    """Return a block's attributes and the blocks in it."""
    body = classes[name][1]
    attributes: dict[str, Any] = {}
    for camel, kind, snake in _GETTER.findall(body):
        settable = f"set {camel}(value)" in body
        required = settable and f"reset{camel[0].upper()}{camel[1:]}()" not in body
        wrapped = f"cdktf.Fn.tolist(this.getListAttribute('{snake}')" in body
        attributes[snake] = {
            "type": KINDS["Set" if wrapped else kind or "String"],
            **({"required": True} if required else {"optional": True} if settable else {"computed": True}),
        }
    if "id" in attributes:
        attributes["id"] = {"type": "string", "optional": True, "computed": True}
    blocks: dict[str, Any] = {}
    for camel, inner, snake, is_set in _BLOCK.findall(body):
        if f"// {snake} - computed: true, optional: false" in body:
            continue  # a list that Google fills
        single = inner.endswith("OutputReference")
        element = inner if single else f"{inner.removesuffix('List')}OutputReference"
        if element not in classes:
            continue
        if snake == "timeouts":
            continue
        required = f"reset{camel[0].upper()}{camel[1:]}()" not in body
        blocks[snake] = {
            "nesting": "set" if is_set == "true" else "list",
            "min": int(required),
            "max": int(single),
            "block": block(classes, element),
        }
    return {"attributes": attributes, "blocks": blocks}


def used() -> dict[str, str]:
    """Return the resources and data sources that the module uses, each with its file in the package."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(MODULE.glob("**/*.tf")))
    found = {}
    for kind, name in re.findall(r'^(resource|data) "google_(\w+)"', text, re.MULTILINE):
        prefix = "data-google-" if kind == "data" else ""
        found[f"{kind} google_{name}"] = f"package/lib/{prefix}{name.replace('_', '-')}/index.js"
    return found


def main(package: str) -> None:
    """Write the file."""
    made: dict[str, Any] = {"resource": {}, "data": {}}
    with tarfile.open(package) as tar:
        for key, path in sorted(used().items()):
            kind, name = key.split()
            file = tar.extractfile(path)
            assert file is not None, path
            made[kind][name] = parse(file.read().decode())
    (HERE / "schema.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
