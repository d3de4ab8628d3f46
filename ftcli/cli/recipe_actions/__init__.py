"""What `ftcli recipe` can do: one module an action, found by listing this folder, declared as a command is.

Each declares, on one line each, `SUMMARY`, `ORDER`, and `NAME` where the module cannot have the action's name (`import`
is a word of Python), and has a function `run(argv)`.
"""
