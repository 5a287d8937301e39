"""One script per claim; each ends with lines `claim NAME: VALUE (goal GOAL) OK` or `… SHORT`."""
