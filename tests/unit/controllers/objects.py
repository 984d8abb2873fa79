"""Objects of the API as operators write them."""

from pathlib import Path
from textwrap import dedent, indent

import msgspec
import yaml

from controllers.api.model_route import ModelRoute
from controllers.api.model_server import ModelServer
from controllers.store.yaml_file import load_file

VERSION = "serving.penstock.dev/v1alpha1"


def route(spec="rules: [{targetModels: [{modelServerName: s}]}]", name="r", namespace=None, model="m"):
    """YAML of a ModelRoute; ``model`` None leaves `modelName` out."""
    return document("ModelRoute", name, namespace, ("" if model is None else f"modelName: {model}\n") + dedent(spec))


def server(spec="endpoints: [{name: e, address: 10.0.0.1}]", name="s", namespace=None, engine="vLLM"):
    """YAML of a ModelServer."""
    return document("ModelServer", name, namespace, f"inferenceEngine: {engine}\n" + dedent(spec))


def document(kind, name, namespace, spec):
    metadata = f"{{name: {name}}}" if namespace is None else f"{{name: {name}, namespace: {namespace}}}"
    return f"apiVersion: {VERSION}\nkind: {kind}\nmetadata: {metadata}\nspec:\n{indent(spec.strip(), '  ')}\n"


def made(text):
    """The object of one YAML document, whatever its faults."""
    content = yaml.safe_load(text)
    return msgspec.convert(content, {"ModelRoute": ModelRoute, "ModelServer": ModelServer}[content["kind"]])


def faults(text):
    """Its faults by path."""
    found = list(made(text).faults())
    paths = {fault.path: fault.message for fault in found}
    assert len(paths) == len(found)
    return paths


def loaded(tmp_path: Path, text, name="file.yaml"):
    """What the store's loader makes of a file."""
    file = tmp_path / name
    file.write_text(text) if isinstance(text, str) else file.write_bytes(text)
    return load_file(file)
