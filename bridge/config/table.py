"""What every table of settings has in common."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A frozen table that knows all its keys.

    Strict: TOML has types, and a text where a number belongs is a mistake. A field's alias is the user's key, its name
    the code's, with the unit. Make one from what a file says: `Table.model_validate({"window": "20s"})`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
