"""The job process: one execution at one party, with SecretFlow."""
