"""The SQL table: the truth about studies, jobs and results. Functions, session first; the caller commits."""
