"""Addresses of clients, of which one must have one form."""

import ipaddress


def plain_address(text: str) -> str:
    """Return an address as it is written alone: IPv4 that is mapped into IPv6 as IPv4.

    A socket for both gives IPv4 clients addresses such as `::ffff:192.0.2.1` (RFC 4291, section
    2.5.5.2). What is no address stays as it is.
    """
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError:
        return text
    return text if mapped is None else str(mapped)
