"""Analysis of stored rows: Pareto fronts, statistics over seeds, training curves."""
