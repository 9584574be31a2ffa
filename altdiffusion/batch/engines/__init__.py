"""Who runs the partitions: processes on this machine, or Ray."""
