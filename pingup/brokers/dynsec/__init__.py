"""Mosquitto's dynamic security: accounts that come and go while the broker runs.

DynsecAccounts: what is there → what differs → change it    accounts.py
what differs, as commands                                   plan.py
whose a client is                                           marks.py
who goes leaves nothing                                     leaving.py
who may do what, as roles                                   roles.py
the connection of an administrator                          control.py
JSON                                                        wire.py
"""

from __future__ import annotations

from pingup.brokers.dynsec.accounts import DynsecAccounts
from pingup.brokers.dynsec.control import Control

__all__ = ["Control", "DynsecAccounts"]
