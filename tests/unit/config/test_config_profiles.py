"""Input profiles: what comes with the bridge can be used, and every mistake in a file is told with its remedy."""

from pathlib import Path

import pytest

from bridge.config.profiles import load_profiles, path_of, read_profile
from bridge.errors import ConfigError
from bridge.spans import Direction

CONF = Path(__file__).resolve().parents[3] / "conf" / "profiles"


def errors_in(folder: Path, text: str) -> list[str]:
    path = folder / "agent.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_profile(path)
    first, *rest = str(caught.value).splitlines()
    assert str(path) in first
    return [line.strip() for line in rest]


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda path: path.stem)
def test_profiles_in_conf_can_be_used(path: Path) -> None:
    """By name and by path, and all of them together."""
    assert path_of(path.stem) == path
    assert read_profile(path).name == path.stem
    load_profiles([other.stem for other in CONF.glob("*.toml")])


def test_datakit_needs_nothing() -> None:
    """Its keys are ours."""
    (profile,) = load_profiles(["datakit"])
    assert (profile.keys, profile.resource, profile.headers) == ((), {}, {})


def test_the_example_in_the_datakit_profile_is_one(tmp_path: Path) -> None:
    """With its comment signs taken off."""
    lines = (CONF / "datakit.toml").read_text().splitlines()
    example = lines[lines.index("# [keys.req_seq]                          # a key of docs/espan.md") :]
    path = tmp_path / "example.toml"
    path.write_text("\n".join(line.removeprefix("# ").removeprefix("#") for line in example))
    profile = read_profile(path)
    assert [rule.key for rule in profile.keys] == ["direction", "req_seq", "pid"]
    pid = profile.keys[2].alternatives
    assert [(a.attribute, a.side) for a in pid] == [
        ("agent.client.pid", Direction.OUTGOING),
        ("agent.server.pid", Direction.INCOMING),
    ]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[key.pid]", ["key: unknown key", "did you mean keys?"]),
        ("keys = 5", ["keys = 5", "a table, written [keys]"]),
        ("[keys.reqseq]\nfrom = ['a']", ["keys.reqseq: unknown key", "did you mean req_seq?"]),
        ("[keys.pid]\nform = ['a']\nfrom = ['a']", ["keys.pid.form: unknown key", "did you mean from?"]),
        ("[keys.pid]", ["keys.pid: no attribute to take it from", "add from ="]),
        ("[keys.pid]\nfrom = 'a'", ['keys.pid.from = "a"', "a list of names"]),
        ("[keys.pid]\nfrom = ['']", ["keys.pid.from = an array", "a list of names"]),
        (f"[keys.pid]\nfrom = ['{'a' * 64}']", ["longer than 63 bytes"]),
        ("[keys.pid]\nfrom = ['tid']", ['"tid" is a key of the convention', "take it out"]),
        ("[keys.pid]\nfrom = ['a']\nvalues = {x = 1}", ["keys.pid.values.x = 1", "leave this out"]),
        ("[keys.src_ip]\nfrom = ['a']\ndefault = '1.2.3.4'", ["keys.src_ip.default", "leave this out"]),
        ("[keys.direction]\nfrom = ['a']\nvalues = {c = 'out'}", ['"out"', '"incoming", "outgoing", "unknown"']),
        ("[keys.direction]\nfrom = ['a']\nvalues = {}", ["keys.direction.values: is empty", "leave it out"]),
        ("[keys.direction]\nfrom = ['a']\noutgoing = ['b']", ["keys.direction.outgoing", "use from"]),
        ("[keys.req_seq]\nfrom = ['a']\ndefault = 1.5", ["keys.req_seq.default = 1.5", "a whole number of 64 bits"]),
        ("[keys.req_seq]\nfrom = ['a']\ndefault = true", ["keys.req_seq.default = true", "a whole number"]),
        ("[resource]\nhost = ['a']", ["resource.host: unknown key", '"host.name"'.strip('"')]),
        ("[headers]\ntraceparents = ['a']", ["headers.traceparents: unknown key", "did you mean traceparent?"]),
        ("[headers]\nb3 = 'a'", ['headers.b3 = "a"', "a list of names"]),
    ],
)
def test_a_mistake_is_told_with_its_remedy(tmp_path: Path, text: str, want: list[str]) -> None:
    """Where it stands, what it is, and what to write."""
    told = " ".join(errors_in(tmp_path, text))
    assert [part for part in want if part not in told] == [], told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Of one file."""
    assert len(errors_in(tmp_path, "[keys.pid]\nfrom = 'a'\n[headers]\nb3 = 1\nb4 = 2\n[more]")) >= 4


def test_no_such_profile() -> None:
    """What there is, and what was probably meant."""
    with pytest.raises(
        ConfigError, match=r'"deepflw": no such profile; allowed: "datakit", .* did you mean "deepflow"'
    ):
        load_profiles(["deepflw"])


def test_no_such_file(tmp_path: Path) -> None:
    """A path is taken as it is."""
    with pytest.raises(ConfigError, match=r"agent\.toml cannot be read: No such file"):
        load_profiles([str(tmp_path / "agent.toml")])


def test_too_much_for_one_bridge(tmp_path: Path) -> None:
    """The kernel has room for so many attributes of all profiles together."""
    names = [", ".join(f"'{letter}{i}'" for i in range(40)) for letter in "ab"]
    for i, list_of_names in enumerate(names):
        (tmp_path / f"{i}.toml").write_text(f"[keys.pid]\nfrom = [{list_of_names}]")
    load_profiles([str(tmp_path / "0.toml")])
    with pytest.raises(ConfigError, match="80 attributes in all profiles together, more than 64; leave some out"):
        load_profiles([str(tmp_path / "0.toml"), str(tmp_path / "1.toml")])


def test_mistakes_in_profiles_are_told_with_those_of_the_settings(loaded, errors, tmp_path: Path) -> None:
    """Before anything starts; a list of names is what the setting takes."""
    assert loaded("[receivers]\nprofiles = ['deepflow', 'headers']").settings.receivers.profiles == (
        "deepflow",
        "headers",
    )
    assert loaded("").settings.receivers.profiles == ()
    (tmp_path / "agent.toml").write_text("[keys.pid]")
    told = " ".join(errors(f"[receivers]\nprofiles = ['{tmp_path}/agent.toml']"))
    assert "receivers.profiles" in told
    assert "keys.pid: no attribute to take it from" in told
    assert 'such as ["deepflow"]' in " ".join(errors("[receivers]\nprofiles = 'deepflow'"))
