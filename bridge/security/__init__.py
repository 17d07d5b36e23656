"""TLS and tokens: what listeners and exporters make of PEM and token files, and how they notice that those change.

Files are read when their part starts and again whenever they change: `FileWatch` looks at them every few seconds, so
that no request pays for it. New connections get what is new, those that are open go on. A file that cannot be used
changes nothing: what was read before stays in use, the log has the reason once, and it is counted.

Decided against: inotify (it misses the renamed symlinks of Kubernetes' volumes unless every folder on the way is
watched), and a library for X.509. Whom to trust is decided by the TLS libraries alone; the one thing read here, when a
certificate expires, is a field at a fixed place.
"""

from bridge.security.hosts import KnownHosts, Misdirected
from bridge.security.listener import ListenerSecurity, Unauthenticated, basic_password
from bridge.security.reloading import CountReload, FileWatch, Reloaded, not_counted
from bridge.security.tls import ClientTls, Identity, MinVersion, ServerTls
from bridge.security.tokens import TOKEN, Tokens, check_token, read_tokens

__all__ = [
    "TOKEN",
    "ClientTls",
    "CountReload",
    "FileWatch",
    "Identity",
    "KnownHosts",
    "ListenerSecurity",
    "MinVersion",
    "Misdirected",
    "Reloaded",
    "ServerTls",
    "Tokens",
    "Unauthenticated",
    "basic_password",
    "check_token",
    "not_counted",
    "read_tokens",
]
