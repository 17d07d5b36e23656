"""The eSpan bridge: makes traces out of what eBPF probes see."""

__version__ = "0.1.0"
