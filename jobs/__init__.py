"""How many videos are done: the command line, the executors, the batch. The outer ring."""
