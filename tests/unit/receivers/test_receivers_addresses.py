"""Who is at the other end."""

import pytest

from bridge.receivers.addresses import host_port, listening_hosts, peer_host


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("ipv4:10.0.0.7:41234", "10.0.0.7"),
        ("ipv6:%5B::1%5D:41234", "::1"),
        ("ipv6:[fe80::1%25eth0]:41234", "fe80::1%eth0"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:41234", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("unix:/run/x.sock", "unix"),
        ("", ""),
    ],
)
def test_peer_host_is_one_name_per_machine(address: str, host: str) -> None:
    """Over gRPC and HTTP, IPv4 and IPv4-mapped IPv6, whatever the port."""
    assert peer_host(address) == host


def test_ipv6_addresses_stand_in_brackets() -> None:
    """Else the port could not be told from the address."""
    assert (host_port("::1", 1), host_port("127.0.0.1", 1)) == ("[::1]:1", "127.0.0.1:1")


def test_only_localhost_stands_for_more_than_one_address() -> None:
    """Any other host is listened on as given."""
    assert listening_hosts("192.0.2.1") == ("192.0.2.1",)
    assert listening_hosts("localhost")[0] == "127.0.0.1"
