"""What tests share: a real Twogate on a real socket, an issuer that signs anything, upstreams that record."""
