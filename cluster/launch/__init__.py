"""Launch files. Each kind has a frozen config, and a pure function that turns the config into the text of the file."""
