"""What Celery's results do at a client."""

from __future__ import annotations

from pathlib import Path

from secretflow_task.broker.celery_app import TASK_NAME, create_app
from secretflow_task.config.settings import Settings
from secretflow_task.utils.network import free_ports
from tests.bench.redis import RedisServer
from tests.bench.stand_in import PSI


def test_a_result_may_be_forgotten_when_redis_is_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_ports(1)[0])
    app = create_app(Settings(redis_url=server.url))  # type: ignore[arg-type]  # read by pydantic
    with server.running():
        result = app.send_task(TASK_NAME, args=["it", PSI])
    result.__del__()  # as the garbage collector calls it, whose errors reach nobody
    app.backend.result_consumer.stop()
    app.close()
