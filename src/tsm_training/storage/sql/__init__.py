"""A store in a database server, through SQLAlchemy."""
