"""How good answers are: metrics and what is made of them. Needs no network."""
