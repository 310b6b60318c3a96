"""Where the secrets of tenants lie (`flows.secrets`)."""
