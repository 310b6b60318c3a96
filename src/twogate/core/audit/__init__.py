"""The audit trail's records, hash chain and accessors."""
