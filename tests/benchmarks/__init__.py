"""What Pingup costs: speed and memory of the real server, measured from outside (`make bench`).

Nothing here asserts a time. `report.py` tells what came out, `server.py` starts the server as a process of
its own, `load.py` speaks to it from other processes, and `cases/` has a module for each subject.
"""
