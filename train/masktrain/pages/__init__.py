"""Pages to look at: of a run, of many, of errors; and the demo."""
