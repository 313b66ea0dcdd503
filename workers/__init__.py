"""The processes that run models: a Celery worker, its pipeline and the inference child."""
