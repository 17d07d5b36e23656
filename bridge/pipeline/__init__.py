"""The parts put together: the only place that knows all of them.

`ingest` takes batches from receivers and commits them; `drain` links what has become whole and commits the decisions;
`build` makes the parts from settings; `run` starts them in order and stops them in reverse.
"""
