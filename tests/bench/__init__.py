"""What several suites stand on: waiting, servers and ports."""
