"""What Pingup costs on this machine: speed, memory and disk of the real server, measured from outside.

suite.py, cases/               what can be measured
report.py, machine.py          the numbers, and how they are told
server.py, mosquitto.py        the server, and a broker before it
peers.py, bare.py              others to hold it against
load.py, generator.py          load, from processes of its own
  generating.py, lines.py        such a process, and its sockets
  scripts.py, messages.py        what it says there
filling.py                     many samples at once, into the database of a server that is away
behind.py, stored.py           how fast a server behind Mosquitto stores, and what it has stored
watcher.py                     when a sample is to be seen on its live topic

The server is `pingup serve` in a process of its own; nothing of its inside is touched. Database files are
written or read directly only while no server runs.
"""
