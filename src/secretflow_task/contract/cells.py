"""Which texts stand for an empty cell."""

# What pandas reads as missing too, so that a file means the same here and in a notebook.
MISSING_TEXT = (
    "",
    "NA",
    "N/A",
    "NaN",
    "nan",
    "NULL",
    "null",
    "None",
    "<NA>",
    "n/a",
    "#N/A",
    "#NA",
    "#N/A N/A",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "-1.#IND",
    "-1.#QNAN",
)
