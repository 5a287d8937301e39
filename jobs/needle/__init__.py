"""The needle evaluation as a batch job: plan, run, rates, report."""
