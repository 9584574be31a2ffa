"""What is done with a partition: a file a task, named in `load.TASKS`."""
