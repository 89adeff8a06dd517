"""The version; pyproject.toml says the same, and a test holds that."""

VERSION = "0.1.0"
