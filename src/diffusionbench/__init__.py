"""DiffusionBench scores image generators and keeps every number as a reproducible record."""

__version__ = "0.1.0"
