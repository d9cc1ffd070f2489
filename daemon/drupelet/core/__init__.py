"""See daemon/docs/ARCHITECTURE.md."""
