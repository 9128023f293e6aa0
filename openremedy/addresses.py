"""Who is calling: the address that a limit counts by."""

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from flask import request

# Some proxies put the port into X-Forwarded-For as well: 192.0.2.1:50000 or [2001:db8::1]:50000.
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([\d.]+):\d+", re.ASCII)


def client_key() -> str:
    """The caller's address as the configured proxies tell it; an IPv6 caller owns its whole /64."""
    return network_of(request.remote_addr or "unknown")


@lru_cache(4096)
def network_of(address: str) -> str:
    """`address`, or the /64 of an IPv6 address; an IPv4 address in IPv6 clothes is the IPv4 address."""
    found = _WITH_PORT.fullmatch(address)
    address = found[1] or found[2] if found else address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))
