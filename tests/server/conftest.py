"""The fixtures of servers."""

from support.servers import client_port, dial, endpoint, localhost, make_server, nowait, plain

__all__ = ["client_port", "dial", "endpoint", "localhost", "make_server", "nowait", "plain"]
