"""The Celery application, for the node that consumes requests and for the client that sends them."""

from __future__ import annotations

from celery import Celery

from secretflow_task.config.settings import Settings

TASK_NAME = "tasks.secretflow.execute_task"


def create_app(settings: Settings) -> Celery:
    """A Celery application on the Redis of ``settings``: JSON only, one request at a time per free slot."""
    url = settings.redis_url.get_secret_value()
    app = Celery("secretflow_worker", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_expires=24 * 3600,
        task_default_queue=settings.queues[0],
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # An execution goes on without Redis.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,  # they would carry arguments and tracebacks
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis delivers again what is not acknowledged in time; the node drops the second delivery.
        broker_transport_options={"visibility_timeout": 24 * 3600},
    )
    return app
