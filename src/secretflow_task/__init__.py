"""SecretFlow Worker: a Celery worker around SecretFlow, one per party."""

__version__ = "0.1.0"
