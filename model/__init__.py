"""How tokens become an answer. No files of ours, no containers, no cluster."""
