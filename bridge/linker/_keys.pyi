from bridge.linker.keys import RowKeys
from bridge.spans import SpanColumns

def row_keys(columns: SpanColumns) -> RowKeys: ...
