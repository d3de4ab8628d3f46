"""What editors are told of recipes, so that they complete and check one while it is typed."""
