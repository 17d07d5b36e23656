"""DataKit's global host tags: where they are said, and what the words for this host in them become."""

import socket
from collections.abc import Iterator, Mapping

from bridge.config.problems import Problem, shown

HOST_TAGS = ("ENV_GLOBAL_HOST_TAGS", "ENV_GLOBAL_TAGS")
"""Newer name first; the older one counts where the newer is not set."""
CLUSTER = "ENV_CLUSTER_NAME_K8S"
CLUSTER_TAG = "cluster_name_k8s"
HOST_NAMES, HOST_ADDRESSES = ("ENV_K8S_NODE_NAME", "ENV_HOSTNAME"), ("ENV_K8S_NODE_IP", "HOST_IP")
"""What `__datakit_hostname` and `__datakit_ip` become, the first that is set; else what this machine says of itself."""


def read_tags(told: Mapping[str, str], before: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """The tags of a file overridden by those of the environment, with words expanded, and what is wrong with them.

    told: variables that are not empty.
    """
    tags, problems = dict(before), []
    name = _variable(told)
    for pair in filter(None, (p.strip() for p in told.get(name, "").split(","))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if key and equals:
            tags[key] = value
        else:
            problems.append(Problem(name, f" = {shown(told[name])}: allowed: KEY=VALUE,KEY=VALUE"))
    if CLUSTER in told:
        tags[CLUSTER_TAG] = told[CLUSTER]
    return {key: _expanded(value, told) for key, value in tags.items() if value}, problems


def used_variables(told: Mapping[str, str]) -> Iterator[str]:
    """Variables that tags are made of: those that name this host only where a tag asks for it."""
    yield from (*HOST_TAGS, CLUSTER)
    tags = told.get(_variable(told), "")
    for word, names in (("datakit_hostname", HOST_NAMES), ("datakit_ip", HOST_ADDRESSES)):
        if word in tags:
            yield from names


def _variable(told: Mapping[str, str]) -> str:
    return next((name for name in HOST_TAGS if name in told), "")


def _expanded(value: str, told: Mapping[str, str]) -> str:
    match value:
        case "__datakit_hostname" | "$datakit_hostname":
            return next((told[name] for name in HOST_NAMES if name in told), "") or socket.gethostname()
        case "__datakit_ip" | "$datakit_ip":
            return next((told[name] for name in HOST_ADDRESSES if name in told), "") or _own_address()
        case _:
            return value


def _own_address() -> str:
    """The address this machine would send from. Nothing is sent: connecting a UDP socket only looks up the route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 of RFC 5737
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
