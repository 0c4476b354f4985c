"""RULER: 13 tasks of finding, tracing, counting and answering in contexts of any length."""
