"""What is checked and set up before torch is loaded, which takes seconds."""

import signal
import socket
import sys

from captioner.checkpoint_folders import DEPLOYABLE, find_checkpoint, holds_model
from captioner.errors import OptionError
from serving.settings import Settings

BAD_INPUT = 2  # exit status
BACKLOG = 512  # connections that the kernel keeps until they are accepted


def check_checkpoint(settings: Settings) -> None:
    """Raise OptionError where there is no model; nothing is loaded for that."""
    folder = settings.checkpoint_folder()
    if not holds_model(find_checkpoint(folder)):
        raise OptionError(
            f"checkpoint is {str(folder)!r}, which holds neither model.json nor {DEPLOYABLE}; give "
            "the folder of a checkpoint such as runs/NAME/best, or one that was exported"
        )


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
    except (OSError, UnicodeError) as problem:  # the second for a name that can be no name
        reason = getattr(problem, "strerror", "this is no name of a host")
        raise OptionError(
            f"cannot listen on {host} port {port}: {reason}; choose another --host or --port"
        ) from problem
    return listener


def handle_signals_before_serving() -> None:
    """End the process well on SIGTERM and ignore SIGHUP, until the server has its own handlers."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
