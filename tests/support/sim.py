"""The functions that set up the simulated network and the faults of its kernel.

They are private to the package: users have a real network.
"""

from iocpcore._core import sim_close as close
from iocpcore._core import sim_configure as configure
from iocpcore._core import sim_datagram as datagram
from iocpcore._core import sim_fail_accepts as fail_accepts
from iocpcore._core import sim_file as file
from iocpcore._core import sim_listener as listener
from iocpcore._core import sim_pair as pair
from iocpcore._core import sim_socket as socket
from iocpcore._core import sim_stats as stats

__all__ = [
    "close",
    "configure",
    "datagram",
    "fail_accepts",
    "file",
    "listener",
    "pair",
    "socket",
    "stats",
]
