"""Which IP addresses Twogate may connect to when it fetches something.

Python's `ipaddress.is_global` differs between patch releases and calls multicast and several cloud metadata addresses
global, so the tables are written out here: the IANA special-purpose address registries (RFC 6890 and its updates) plus
the addresses at which clouds serve credentials to whoever asks.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are the IPv4 address that a translator connects to."""

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""The only IPv6 block from which global unicast addresses are given out (RFC 4291)."""

_SPECIAL_V4: Final = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this host on this network (RFC 1122); Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared address space (RFC 6598)
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link-local (RFC 3927), cloud metadata
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 (RFC 7535)
        "192.52.193.0/24",  # AMT (RFC 7450)
        "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "192.175.48.0/24",  # AS112 (RFC 7534)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, limited broadcast (RFC 1112)
    )
)

_SPECIAL_V6: Final = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocol assignments, among them Teredo, which hides an IPv4 address (RFC 4380)
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, which hides an IPv4 address; deprecated (RFC 7526)
        "2620:4f:8000::/48",  # AS112 (RFC 7534)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

_METADATA: Final[frozenset[Address]] = frozenset(
    {
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("168.63.129.16"),  # Azure; outside every special-purpose block
        IPv4Address("192.0.0.192"),  # Oracle
        IPv6Address("fd00:ec2::254"),  # Amazon; 169.254.169.254 is link-local
        IPv6Address("fd20:ce::254"),  # Google
    }
)


def unwrap_address(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped (RFC 4291) or NAT64 (RFC 6052) one: that is what gets connected to.

    Teredo and 6to4 also carry one, but are refused whole: nothing is served from there any more.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is None and address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_globally_reachable(address: Address) -> bool:
    """Whether an address belongs to the public Internet, judged on its unwrapped form."""
    address = unwrap_address(address)
    if address in _METADATA:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _SPECIAL_V4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST:
        return False
    return not any(address in block for block in _SPECIAL_V6)


def is_loopback(address: Address) -> bool:
    """Whether an address is this machine, judged on its unwrapped form."""
    address = unwrap_address(address)
    return address.is_loopback and (isinstance(address, IPv4Address) or address.scope_id is None)


def is_ordinary_host(address: Address) -> bool:
    """Whether an address may be a server that an operator named: public, private or loopback.

    Not so for link-local, multicast, unspecified, reserved and cloud metadata addresses, at which no such server is.
    """
    address = unwrap_address(address)
    if is_globally_reachable(address) or is_loopback(address):
        return True
    if address in _METADATA or (isinstance(address, IPv6Address) and address.scope_id is not None):
        return False
    return any(address in block for block in _PRIVATE)


_PRIVATE: Final = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),  # shared space, used by overlay networks
    IPv6Network("fc00::/7"),  # unique local (RFC 4193)
)
