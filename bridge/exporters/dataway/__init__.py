"""Sends points to a Dataway, Guance's gateway, as DataKit does, except that 408 and 429 are tried again.

One exporter has one address; several addresses are several exporters, each with a cursor of its own, so that one
that fails neither delays the others nor makes them get anything twice.
"""

from bridge.exporters.dataway.http import DatawayExporter

__all__ = ["DatawayExporter"]
