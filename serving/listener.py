"""The socket that the service listens on, bound before anything else is loaded."""

import socket

from captioner.errors import OptionError

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
