"""API keys, consent, the URL allowlist and the audit log."""
