"""Labels: the schema and the table of final labels."""
