"""Brings a server's users into a broker elsewhere: while the server runs, and by hand beside it."""

from __future__ import annotations

from pingup import signing
from pingup.broker_url import BrokerUrl
from pingup.clock import Clock
from pingup.data_dir import REGISTRY_FILE, DataDirectory, open_data_dir, read_admin_token
from pingup.errors import Unusable
from pingup.model import ApiToken, Reconciled, Scope
from pingup.ports import AccountStore
from pingup.services.accounts import Accounts
from pingup.services.admission import OPERATOR_PREFIX, server_account
from pingup.services.keyring import Keyring
from pingup.services.roll import Roll
from pingup.settings import MqttSettings, Settings
from pingup.signing import Fingerprints, Vault, instance_of
from pingup.sources import USAGE
from pingup.storage import sqlite

_ENVIRONMENT = "environment"


def admit_environment_token(settings: Settings, keyring: Keyring, clock: Clock) -> None:
    """`PINGUP_ADMIN_TOKEN` counts for as long as it is set, and is stored nowhere."""
    if settings.admin_token is not None:
        token = ApiToken(_ENVIRONMENT, "PINGUP_ADMIN_TOKEN", Scope.ADMIN, clock.now(), None, None)
        keyring.admit(token, signing.hash_token(settings.admin_token))


def accounts_of(settings: Settings, data: DataDirectory, keyring: Keyring, clock: Clock) -> Accounts | None:
    """What keeps the broker's accounts as they should be; None unless `mqtt.control_url` says how."""
    control = settings.mqtt.control
    if control is None:
        return None
    return Accounts(_roll(settings, data, keyring), keyring, _store(settings.mqtt, control, data), clock)


async def synchronise(settings: Settings, clock: Clock) -> Reconciled:
    """Bring everybody's account to the broker once. The server may be running, and nothing of it is changed.

    Raises:
        Unusable: the settings don't say where to, or there is no data directory that can be read.
        NotAllowed: the broker doesn't let us.
        Unavailable: it can't be reached.
    """
    control = settings.mqtt.control
    if control is None:
        raise Unusable(
            "mqtt.control_url (--control-url) must name the broker and an administrator of its dynamic "
            "security: mqtt://USER:PASSWORD@HOST",
            USAGE,
        )
    data = _existing_data_dir(settings)
    keyring = Keyring(clock)
    async with sqlite.SQLiteRegistry.open_read_only(data.registry, Vault(data.master_key)) as registry:
        for key in await registry.agents.keys():
            keyring.put(key)
        for token, token_hash in await registry.tokens.all():
            keyring.admit(token, token_hash)
    admit_environment_token(settings, keyring, clock)
    store = _store(settings.mqtt, control, data)
    try:
        return await store.reconcile(_roll(settings, data, keyring).all(), spared=_unknown_here(settings))
    finally:
        await store.rest()


async def withdraw(settings: Settings) -> None:
    """Take every account of this server away from the broker, its own too. The server must not be running.

    Raises:
        Unavailable: the broker can't be reached, or doesn't let us.
    """
    control = settings.mqtt.control
    if control is None:
        return
    store = _store(settings.mqtt, control, open_data_dir(settings.data_dir))
    try:
        await store.reconcile([])
    finally:
        await store.rest()


def _existing_data_dir(settings: Settings) -> DataDirectory:
    path = settings.data_dir
    if not (path / REGISTRY_FILE).exists():
        raise Unusable(f"there is no server's data in {path}: --data-dir must name its data directory")
    return open_data_dir(path)


def _unknown_here(settings: Settings) -> tuple[str, ...]:
    """The running server may have a token in its environment that is not in ours."""
    return (f"{OPERATOR_PREFIX}{_ENVIRONMENT}",) if settings.admin_token is None else ()


def _roll(settings: Settings, data: DataDirectory, keyring: Keyring) -> Roll:
    texts = [text for text in (settings.admin_token, _first_token(data)) if text is not None]
    fingerprints = Fingerprints(data.master_key)
    return Roll(keyring, fingerprints, server=server_account(settings.mqtt), texts=texts)


def _first_token(data: DataDirectory) -> str | None:
    """The first start's admin token, for as long as its file is there; it may be revoked by now."""
    try:
        return read_admin_token(data)
    except Unusable:
        return None


def _store(settings: MqttSettings, url: BrokerUrl, data: DataDirectory) -> AccountStore:
    from pingup.brokers.dynsec import Control, DynsecAccounts  # late: most servers need none of it
    from pingup.brokers.session import Credentials, Options, Tls

    options = Options(
        host=url.host,
        port=url.port,
        # A listener may make the user name the client id in any case.
        client_id=url.username or "pingup-control",
        tls=Tls(settings.ca_file, settings.cert_file, settings.key_file) if url.tls else None,
        credentials=None if url.username is None else Credentials(url.username, url.password),
    )
    return DynsecAccounts(Control(options), instance_of(data.master_key))
