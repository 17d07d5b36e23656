"""How much could be right where calls cannot be told apart: an estimate from the true edges.

A model is learnt from the true edges and answers are drawn by their likelihood under it, starting from the truth. Where
several are as likely as the truth, draws differ, and the entry that most of them name is the best guess there is.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from bridge.cli.link import read_window
from bridge.linker import LinkOptions, link
from bridge.linker.timing.chains import VOTES, Chains
from bridge.linker.timing.evidence import stray_score, thread_evidence
from bridge.linker.timing.model import learnt
from bridge.linker.timing.scene import scene_of
from bridge.spans import Kind

DRAWS = 12
NO_THREADS = LinkOptions(sampling_rate=1.0, use_app_trace_id=False)


def upper_bound(spans: Path, truth: Path) -> float:
    """Share of in-process edges that the best guess gets right; edges outside their entry's time count as wrong."""
    columns = read_window([spans]).columns
    row_of = {span_id: row for row, span_id in enumerate(columns.span_id.tolist())}
    true = np.full(len(columns), -1, np.int64)
    with truth.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["parent_span_id"]:
                true[row_of[int(row["span_id"], 16)]] = row_of[int(row["parent_span_id"], 16)]
    exits = columns.kind == Kind.EXIT
    known = np.where(exits, -1, link(columns, NO_THREADS).parent)
    scene, _ = scene_of(columns, known, columns.kind == Kind.ENTRY, exits, budget=10**9)
    if scene is None:
        return 0.0
    entry_at = np.full(len(columns) + 1, -1, np.int32)
    entry_at[scene.entry_row] = np.arange(scene.entry_row.size)
    owner = entry_at[true[scene.exit_row]]
    inside = (owner >= 0) & (scene.exit_start <= scene.entry_end[owner])
    owner = np.where(inside, owner, -1).astype(np.int32)
    run = Chains(replace(scene, owner=owner), 0)
    run.put(owner)
    run.model(learnt(*run.record(), *thread_evidence(scene, owner), stray_score(scene)))
    for _ in range(DRAWS):
        run.forward(assign=False)
        run.improve(1.0, voting=True)
    voters, votes = run.voters.reshape(-1, VOTES), run.votes.reshape(-1, VOTES)
    best = voters[np.arange(len(voters)), votes.argmax(axis=1)]
    return float(np.count_nonzero(inside & (best == owner)) / np.count_nonzero(exits & (true >= 0)))
