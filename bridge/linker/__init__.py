"""Finds out which request caused which: numpy columns in, numpy columns out. No I/O, no clock, no logging.

`link` is a pure function over the rows of one window, in stages that each see only rows with something in common:
*pair* (`across`: same net id, connection or request id), *assign* (`assigning`: same thread trace id, or same thread of
one process), *build* (`building`, `headers`, `sampling`: from parents to roots, trace ids and verdicts). `Assembler`
holds what is remembered between ticks: which rows wait, which may leave, what later rows may still be related to.

Guarantees: the result depends on what rows say, never on the order they came in; work and memory grow with n log n for
any input, in every stage; no span is its own ancestor. docs/linking.md says the same for people.

Decided against: walking from span to span (one Python step a span, and a loop never ends), and links that change once
they were exported.
"""

from bridge.linker.assembler import Assembler, WindowOptions
from bridge.linker.departing import Departed
from bridge.linker.link import Decided, Links, link
from bridge.linker.options import LinkOptions

__all__ = ["Assembler", "Decided", "Departed", "LinkOptions", "Links", "WindowOptions", "link"]
