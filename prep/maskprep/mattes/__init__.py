"""Mattes: who is the person, who is background."""
