"""The sweep file: YAML, search spaces, validation of the whole sweep, and the syntax of arms on the command line."""
