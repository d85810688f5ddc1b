"""What a runner does again and again beside its queues: stage, rescue, schedule, prune."""
