"""REST: the only door to aiohttp.

application.py  the routes put together      server.py      listening and stopping
routes.py       the one table of calls       access.py      who may call what
middleware.py   errors → statuses            problems.py    problem documents and answers
bodies.py, query.py, cursors.py              what callers send, read and checked
uplink.py       what all signed messages share; beside it a file of handlers for each noun
"""
