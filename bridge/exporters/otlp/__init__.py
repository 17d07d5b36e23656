"""OTLP senders: gRPC and HTTP. What both need to know of OTLP's answers is in `answers`."""

from bridge.exporters.otlp.forwarding import GrpcForwarder, HttpForwarder
from bridge.exporters.otlp.grpc import OtlpGrpcExporter
from bridge.exporters.otlp.http import OtlpHttpExporter

__all__ = ["GrpcForwarder", "HttpForwarder", "OtlpGrpcExporter", "OtlpHttpExporter"]
