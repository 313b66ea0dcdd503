"""The doorbell: task and queue names, and how one is rung. The only file of the node that knows Celery."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from node.errors import BrokerAway

#: Topic of the table -> (task name, queue). A task carries a job id and nothing else.
TASKS = {
    "run_job": ("pacs_node.run_job", "gpu"),
    "deliver": ("pacs_node.deliver", "io"),
}
QUEUES = ("gpu", "io")


def make_app(url: str) -> Celery:
    """Return a Celery application that only carries doorbells: early ack, no results, no retries, json."""
    app = Celery("pacs_node", broker=url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_acks_late=False,
        task_publish_retry=False,
        task_default_queue="io",
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        broker_transport_options={"socket_connect_timeout": 3, "socket_timeout": 10},
    )
    return app


class Broker:
    """Rings doorbells."""

    def __init__(self, url: str) -> None:
        self._app = make_app(url)

    def ring(self, topic: str, job_id: str) -> None:
        """Tell the workers of *topic* that there is work; BrokerAway where nobody can be told now."""
        task, queue = TASKS[topic]
        try:
            self._app.send_task(task, args=(job_id,), queue=queue, ignore_result=True)
        except (OperationalError, OSError) as why:
            raise BrokerAway(f"the broker does not answer: {type(why).__name__}") from why

    def waiting(self) -> dict[str, int]:
        """Return how many doorbells lie unheard in each queue."""
        try:
            with self._app.connection_for_read() as connection:
                return {queue: _length(connection, queue) for queue in QUEUES}
        except (OperationalError, OSError) as why:
            raise BrokerAway(f"the broker does not answer: {type(why).__name__}") from why


def _length(connection: Any, queue: str) -> int:
    channel = connection.default_channel
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors:
        return 0  # nobody rang yet
