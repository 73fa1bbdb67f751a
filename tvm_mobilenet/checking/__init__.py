"""What a network should compute, what a difference may be, and the comparison with what it computed."""
