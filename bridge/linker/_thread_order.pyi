from bridge.linker.thread_order import I64Array, U64Array

def begun(
    lines: U64Array, at_ns: I64Array, span_id: U64Array, digest: U64Array, exit_lines: U64Array, exit_at: I64Array
) -> tuple[I64Array, I64Array, I64Array]: ...
