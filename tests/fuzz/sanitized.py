"""A copy of the code whose kernels are built with gcc's sanitizers of addresses and of undefined behaviour."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
LEFT_OUT = (
    ".venv",
    ".git",
    "build",
    "dist",
    "data",
    "out",
    "*.so",
    "*.c",
    "*.egg-info",
    ".*cache",
    "corpus",
    "crashes",
)
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")
BUILD = "from setuptools import setup; setup()"
CHECK = """
from bridge.codec import attribute_rules, otlp_scan
assert otlp_scan.kernel_in_use()
assert attribute_rules.AttributeEditor is not attribute_rules.PlainAttributeEditor
"""


def sanitized_copy(root: Path) -> tuple[Path, dict[str, str]]:
    """Where it lies, and the environment its code runs in. Raises CalledProcessError where it cannot be built."""
    copy = Path(mkdtemp(prefix="fuzz-sanitized-")) / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    build = [sys.executable, "-c", BUILD, "-q", "build_ext", "--inplace"]
    flags = {"CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined"}
    subprocess.run(build, cwd=copy, env=os.environ | flags, check=True, capture_output=True)
    environ = os.environ | {
        "LD_PRELOAD": " ".join(map(_library, LIBRARIES)),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb=4096",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that every object's memory is watched
    }
    subprocess.run([sys.executable, "-c", CHECK], cwd=copy, env=environ, check=True)
    return copy, environ


def _library(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True)  # noqa: S607
    return found.stdout.strip()
