"""The page for people: the job table, each job's and study's story, and the two things a person may ask of a job."""

from __future__ import annotations

from node.web.app import make_web_app, serve

__all__ = ["make_web_app", "serve"]
