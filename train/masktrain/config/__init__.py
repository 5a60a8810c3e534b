"""What can be set: every setting with its default, help and source; recipes, and plugins that add choices."""
