import subprocess
import sys
import zipfile
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from stratmaster_router.storage import schema
from support.servers import REPOSITORY

MIGRATIONS = Path(schema.__file__).with_name("migrations")


def test_the_head_is_the_last_migration() -> None:
    """The cheap check at the start and alembic mean the same revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_a_database_that_is_up_to_date_costs_no_alembic(tmp_path: Path) -> None:
    """The first process migrates; the second has nothing to migrate and does not load it."""
    program = (
        "import asyncio, sys\n"
        "from stratmaster_router.storage.database import Database, database_url\n"
        "from stratmaster_router.storage.schema import prepare\n"
        "asyncio.run(prepare(Database(database_url(sys.argv[1]))))\n"
        "print('alembic' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path}/router.db"]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert found == ["True\n", "False\n"]


def test_a_wheel_has_the_migrations(tmp_path: Path) -> None:
    """They are no package, and files all the same."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY / "packages" / "router", check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"stratmaster_router/storage/migrations/{path.relative_to(MIGRATIONS)}" for path in MIGRATIONS.rglob("*.py")
    }
    assert wanted <= names
    assert len(wanted) >= 2
