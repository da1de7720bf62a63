"""Long edits: the queue, its store, batches, videos and webhooks."""
