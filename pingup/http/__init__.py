"""REST: the only door to aiohttp.

application.py  the routes put together      server.py      listening and stopping
routes.py       the one table of calls       access.py      who may call what
middleware.py   errors → statuses            answers.py     what goes out, written at once
problems.py     answers as JSON, problem documents
bodies.py, query.py, cursors.py              what callers send, read and checked
uplink.py       what all signed messages share; ndjson.py  many of them in one call
                beside them a file of handlers for each noun
"""
