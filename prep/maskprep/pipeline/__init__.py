"""The stages in order, their settings, and what is out of date."""
