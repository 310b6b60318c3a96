"""Short-lived state that replicas share, in Redis or Valkey. What has effects lives in SQL only."""
