"""Audit: checks that find what went wrong, a page on which a person rules, and the rulings that feed it back."""
