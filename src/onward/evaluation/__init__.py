"""Rank, judge, compare: what came back for each query, what it is worth, and how sure that is."""
