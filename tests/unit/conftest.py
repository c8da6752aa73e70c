"""The fixtures of servers, for modules that are of use only with one."""

from support.servers import client_port, dial, endpoint, localhost, make_server, nowait, plain

__all__ = ["client_port", "dial", "endpoint", "localhost", "make_server", "nowait", "plain"]
