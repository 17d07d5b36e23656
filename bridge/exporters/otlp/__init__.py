"""OTLP senders: gRPC and HTTP. What both need to know of answers, headers and TLS is in `answers` and `connection`."""

from bridge.exporters.otlp.connection import ClientTls
from bridge.exporters.otlp.grpc import OtlpGrpcExporter
from bridge.exporters.otlp.http import OtlpHttpExporter

__all__ = ["ClientTls", "OtlpGrpcExporter", "OtlpHttpExporter"]
