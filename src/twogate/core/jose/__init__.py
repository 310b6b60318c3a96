"""JWT, JWS and JWK: bytes to types, and verification with explicit keys and algorithms."""
