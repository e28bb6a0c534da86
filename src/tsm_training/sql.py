"""A store in a PostgreSQL database, for several machines: ``SQLStore("postgresql+psycopg://…")``.

It needs the extra ``sql``; nothing else in the package imports this module.
"""

from tsm_training.errors import MissingExtraError

try:
    from tsm_training.storage.sql.store import SQLStore
except ModuleNotFoundError as _error:
    raise MissingExtraError("sql", "tsm_training.sql") from _error

__all__ = ["SQLStore"]
