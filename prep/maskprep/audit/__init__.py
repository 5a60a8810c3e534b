"""Audit: checks that find what went wrong, a page on which a person decides, and the self-test."""
