"""The SQL store: SQLAlchemy Core, asynchronous, SQLite or PostgreSQL."""
