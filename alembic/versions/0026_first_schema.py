"""the first schema; a new database gets its tables from the program, not from here"""

from pathlib import Path

from alembic import op

revision = '0026'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    for statement in Path(__file__).with_suffix(f'.{connection.dialect.name}.sql').read_text().split('\n\n'):
        connection.exec_driver_sql(statement)
