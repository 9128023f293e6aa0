"""Addresses: that of who is calling, by which a limit counts, and which ones are public."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from flask import request

# Some proxies put the port into X-Forwarded-For as well: 192.0.2.1:50000 or [2001:db8::1]:50000.
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([\d.]+):\d+", re.ASCII)
_NAT64 = ip_network("64:ff9b::/96")
_UNICAST = ip_network("2000::/3")  # all that is given out; whatever else there is carries or means something of its own
_RESERVED = (ip_network("3fff::/20"), ip_network("192.88.99.0/24"))  # Python 3.11 does not know them as such


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


def is_public(address: str) -> bool:
    """Whether the whole internet may be meant by it. Looks also at the IPv4 address that an IPv6 one carries."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found not in _UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in one for one in _RESERVED)
