"""Integrations with other tools; each module is imported only on request."""
