"""What is generated from schemas/ is what is committed."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from bridge.codec import otlp_view_pb2
from bridge.codec.points import point_pb2, point_view_pb2

ROOT = Path(__file__).resolve().parents[3]
COMPILED = (otlp_view_pb2, point_pb2, point_view_pb2)

pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed: it comes with the lint extra")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "schemas" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ["bridge/spans/convention.py", "docs/espan.md"])
def test_convention_is_what_the_table_says(generate: ModuleType, path: str) -> None:
    """After a change of schemas/espan.toml: python schemas/generate.py."""
    assert (ROOT / path).read_text(encoding="utf-8") == generate.OUTPUTS[ROOT / path]()


def test_every_generated_file_is_compared(generate: ModuleType) -> None:
    """The test above knows all of them."""
    assert {str(path.relative_to(ROOT)) for path in generate.OUTPUTS} == {"bridge/spans/convention.py", "docs/espan.md"}
    assert set(generate.PROTOS) == {module.DESCRIPTOR.name for module in COMPILED}


def test_compiled_schemas_are_what_their_proto_says(generate: ModuleType, tmp_path: Path) -> None:
    """After a change of schemas/*.proto: python schemas/generate.py. Schemas are compared, since versions of
    protoc write other code for one schema."""
    compiled = {module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb for module in COMPILED}
    for described in generate.descriptors(tmp_path):
        found = FileDescriptorProto.FromString(compiled[described.name])
        for file in (described, found):
            for message in file.message_type:
                for part in (message, *message.nested_type):
                    for field in part.field:
                        field.ClearField("json_name")  # which protoc writes here, but into code only where it was given
        assert found == described
