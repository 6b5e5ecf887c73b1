"""Everything that is measured, one file each. All numbers are in nats an example unless their docstring says other."""
