"""Drivers that tokenise rows in other tools, for `ftcli recipe import --prove`.

The folder is run as a script by the other tool's own interpreter, which has no ftcli: nothing here imports it, and
ftcli imports nothing from here. `of_NAME.py` is the driver of a tool; each has `tokenise(request)`.

    python ftcli/worker/peers DRIVER REQUEST.json ANSWER.json

The request holds `settings`, the tool's own ones that shape tokens; `method`, what is trained, in ftcli's name for it;
`whole`, whether rows are joined before they are cut, so that none is cut alone; `model`, a folder with the tokenizer;
`sets`, each with `rows`, a file of JSON lines, and its own `settings`; and `folder`, an empty one for whatever the tool
writes. The answer holds the tool's `version` and for every set a list with an entry for each row: `sequences`, name →
{`ids`, `trained`}, or `dropped`, why the tool leaves it out.
"""
