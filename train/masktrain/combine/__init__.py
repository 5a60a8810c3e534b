"""One answer out of several runs: votes, parts, mean weights; and probabilities set right."""
