"""What is wrong, or odd, about attribute rules taken together."""

from collections.abc import Iterator, Mapping
from itertools import combinations

from bridge.config.attributes import MAX_KEY_BYTES, MIN_KEY_BYTES, AttributesSettings
from bridge.config.catalogue import dotted
from bridge.config.problems import Path, Problem, named, shown
from bridge.config.settings import Settings
from bridge.spans.needed import NEEDED, NOT_DROPPED


def check_attributes(settings: Settings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    """Names that no rule may have, rules that contradict each other, and keys that cannot be used."""
    rules = settings.attributes
    by_action = {"drop": rules.drop, "hash": rules.hash, "strip_query": rules.strip_query, "truncate": rules.truncate}
    for action, names in by_action.items():
        path = ("attributes", action)
        for name in names:
            if (needed := _fitting(name, NEEDED)) is not None:
                yield Problem(
                    dotted(path),
                    f": {shown(name)} would change {needed}, which spans need to be a trace, here and at whatever "
                    "comes behind the bridge; take it out, or name what holds personal data itself",
                    (path,),
                )
            elif action == "drop" and (needed := _fitting(name, NOT_DROPPED)) is not None:
                yield Problem(
                    dotted(path),
                    f": {shown(name)} would take off {needed}, without which a Dataway refuses spans; use strip_query, "
                    "hash or truncate",
                    (path,),
                )
    for (one, first), (other, second) in combinations(by_action.items(), 2):
        if one == "strip_query" or (one, other) == ("hash", "strip_query"):
            continue  # first the query, then the hash or the length
        for name in sorted({*first} & {*second}):
            paths = (("attributes", one), ("attributes", other))
            yield Problem(
                dotted(paths[1]), f": {shown(name)} is in {dotted(paths[0])}, too; leave it in one of them", paths
            )
    yield from _key(rules, variables)


def unkeyed_hashes(rules: AttributesSettings) -> Iterator[str]:
    """A warning where hashes have no key."""
    if rules.hash and rules.hash_key is None and rules.hash_key_file is None:
        yield (
            "attributes.hash without attributes.hash_key: whoever can guess a value (an address, a name, a number) can "
            "tell from its hash whether it was that; set attributes.hash_key_file to a file of 16 to 64 random bytes"
        )


def _fitting(name: str, names: frozenset[str]) -> str | None:
    fitting = (n for n in names if (n.startswith(name[:-1]) if name.endswith("*") else n == name))
    return min(fitting, default=None)


def _key(rules: AttributesSettings, variables: Mapping[Path, str]) -> Iterator[Problem]:
    key, file = ("attributes", "hash_key"), ("attributes", "hash_key_file")
    if rules.hash_key is not None and rules.hash_key_file is not None:
        yield Problem(named(file, variables), f": {dotted(key)} is set, too; leave one of them out", (key, file))
        return
    path = key if rules.hash_key_file is None else file
    try:
        n = len(rules.key_bytes)
    except OSError as exc:
        yield Problem(
            named(file, variables), f' = "{rules.hash_key_file}": cannot be read: {exc.strerror or "bad path"}', (file,)
        )
        return
    except UnicodeEncodeError:
        yield Problem(named(path, variables), ": must be UTF-8", (path,))
        return
    if (rules.hash_key or rules.hash_key_file) is not None and not MIN_KEY_BYTES <= n <= MAX_KEY_BYTES:
        text = f": a key of {n} bytes; allowed: {MIN_KEY_BYTES} to {MAX_KEY_BYTES}, such as 32 random hex digits"
        yield Problem(named(path, variables), text, (path,))
