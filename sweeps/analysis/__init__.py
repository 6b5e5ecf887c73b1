"""Analysis of stored rows: Pareto fronts, statistics over seeds, and training curves."""
