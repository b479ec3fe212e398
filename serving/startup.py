"""Socket and signals of the service, set up before torch is loaded, which takes seconds."""

import signal
import socket
import sys

from captioner.errors import OptionError

BAD_INPUT = 2  # exit status
BACKLOG = 512  # connections that the kernel keeps until they are accepted


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; connections queue from now on.

    Raises:
        OptionError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        raise OptionError(
            f"cannot listen on {host} port {port}: {problem.strerror}; choose another --host or "
            "--port"
        ) from problem
    return listener


def handle_signals_before_serving() -> None:
    """End the process well on SIGTERM and ignore SIGHUP, until the server has its own handlers."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
