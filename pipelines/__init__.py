"""The outer ring: command line, ingestion, executors, tracking."""
