"""The sweep file: YAML parsing, search spaces, validation of the whole sweep, and the syntax of arms."""
