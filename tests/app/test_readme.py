"""README stays true: its configuration table is made from the settings."""

from pathlib import Path

from app.cli.settings import markdown_table

README = Path(__file__).parents[2] / "README.md"


def test_the_configuration_table_is_that_of_the_settings() -> None:
    text = README.read_text()
    table = text.split("--markdown` -->\n")[1].split("\n<!-- /settings -->")[0]
    assert table == markdown_table(), "run 'make readme'"
