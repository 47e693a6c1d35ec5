"""Is what is advised to serve no worse than doing nothing, where people ask in words? Measure it.

    python lab/fused_texts.py VECTORS [--seeds 0-2] [--out lab/fused_texts.json]

VECTORS is what `lab/unseen_vectors.py` wrote: SciFact's 5,183 abstracts and 1,109 claims with
judgements (train and test), by wordllama, minilm and mpnet. A share of the abstracts is embedded by
the new model: h is fitted on these alone (ridge), carries the others, and they keep their true new
vectors. The claims ask, judged by ndcg@10.

What to serve (the old space, the new one, or both fused with a weight) is advised without the
claims that judge it: the claims are divided in two, and each half is answered as the other half
advises. `by fit` is what `fit` advises by real queries among the items that it is given; `by plan`
what the plan recommends by real queries in the whole gallery; `by items` what `fit` advises where
there are no real queries, by items that ask for their neighbours.

Prints Markdown; writes the same as JSON with --out. Differences are paired, query by query, with
95 % intervals of a bootstrap over the claims.
"""
