"""The process that tries inputs of one target: by coverage where atheris is installed, else by chance.

`python -m tests.fuzz.engine TARGET SECONDS FOLDER` ends with 0 and how many inputs on standard error, or with another
code and a file in FOLDER/crashes.
"""

import random
import sys
import time
from hashlib import sha256
from pathlib import Path

MAX_BYTES = 16 << 10
SLOWNESS = 8.0
"""How much slower Python code runs while atheris watches it."""
EXPECTED_S = 60
"""libFuzzer gives up on a single input after so long, whatever the CPU time says."""


def by_coverage(name: str, seconds: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["bridge"]):
        from tests.fuzz.targets import TARGETS
        from tests.fuzz.trying import bound_memory, try_input
    target = TARGETS[name]
    corpus = folder / "corpus" / name
    _write(corpus, target.seeds())

    def one(data: bytes) -> None:
        try_input(target, data, slowness=SLOWNESS)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={EXPECTED_S}",
        f"-artifact_prefix={folder / 'crashes'}/{name}-",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    bound_memory()
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def by_chance(name: str, seconds: int, folder: Path) -> None:
    """Changes seeds, and what became of them, at random."""
    from tests.fuzz.mutation import mutated
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.trying import bound_memory, try_input

    target, draw = TARGETS[name], random.Random(time.time_ns())
    pool = target.seeds()
    words = sorted({pool_word for seed in pool for pool_word in seed.split(b'"') if 0 < len(pool_word) < 40})
    bound_memory()
    end, tried = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(draw.choice(pool), pool, words, draw)[:MAX_BYTES]
        tried += 1
        try:
            taken = try_input(target, data)
        except Exception:
            path = folder / "crashes" / f"{name}-{sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            print(f"inputs {tried}", file=sys.stderr)
            raise
        if taken and len(pool) < 2000 and draw.random() < 0.2:
            pool.append(data)  # what is still taken goes deeper than what is refused
    print(f"inputs {tried}", file=sys.stderr)


def _write(corpus: Path, seeds: list[bytes]) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)


def main() -> None:
    """The way that is there, or the one that is asked for."""
    name, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    (folder / "crashes").mkdir(parents=True, exist_ok=True)
    if "--by-chance" not in sys.argv:
        try:
            import atheris  # noqa: F401
        except ImportError:
            print("atheris is not installed: inputs are changed by chance, without coverage", file=sys.stderr)
        else:
            by_coverage(name, seconds, folder)
    by_chance(name, seconds, folder)


if __name__ == "__main__":
    main()
