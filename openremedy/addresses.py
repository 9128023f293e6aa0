"""Who is calling: the address that a limit counts by."""

from ipaddress import IPv6Address, ip_address, ip_network

from flask import request


def client_key() -> str:
    """The caller's address as the configured proxies tell it; an IPv6 caller owns its whole /64."""
    return network_of(request.remote_addr or "unknown")


def network_of(address: str) -> str:
    """`address`, or the /64 of an IPv6 address; an IPv4 address in IPv6 clothes is the IPv4 address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))
