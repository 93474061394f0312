"""From what a broker knows to what it should know: nothing more than needed, and nobody else's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pingup.brokers.dynsec.control import COMMANDS_AT_ONCE
from pingup.brokers.dynsec.plan import Known, Plan, plan
from pingup.brokers.dynsec.roles import PREFIX
from pingup.brokers.dynsec.wire import (
    Client,
    Command,
    CreateClient,
    CreateRole,
    DeleteClient,
    DeleteRole,
    HeldGroup,
    HeldRole,
    ModifyClient,
    ModifyRole,
    Role,
)
from pingup.model import Account, Obstacle, Principal, Reconciled, Scope
from pingup.model import Role as Part

OURS, THEIRS = "0" * 16, "f" * 16
OLD, NEW = "1" * 32, "2" * 32
NOBODY = Known({}, {})


def account(principal: Principal, fingerprint: str = OLD, password: str | None = "password") -> Account:
    name = f"operator.{principal.id}" if principal.role is Part.OPERATOR else principal.id
    return Account(name, principal, fingerprint, password)


AGENT = account(Principal(Part.AGENT, "a1"))
READER = account(Principal(Part.OPERATOR, "t1", Scope.READ))
ADMIN = account(Principal(Part.OPERATOR, "t2", Scope.ADMIN))
SERVER = account(Principal(Part.SERVER, "server"))
EVERYBODY = [AGENT, READER, ADMIN, SERVER]


def steps(planned: Plan) -> tuple[Command, ...]:
    """All that is done, in its order."""
    shut_out = (leaver.shut_out("a random password") for leaver in planned.leaving)
    return (*shut_out, *planned.commands, *planned.deletions)


def carry_out(known: Known, commands: tuple[Command, ...]) -> Known:
    """What the broker knows afterwards; like the plugin it refuses roles that are not there."""
    clients, roles = dict(known.clients), dict(known.roles)
    for command in commands:
        match command:
            case CreateRole(rolename=name, acls=acls):
                assert name not in roles
                roles[name] = Role(name, acls)
            case ModifyRole(rolename=name, acls=acls):
                assert name in roles
                roles[name] = Role(name, acls)
            case DeleteRole(rolename=name):
                assert not any(held.rolename == name for one in clients.values() for held in one.roles)
                del roles[name]
            case CreateClient(username=name):
                assert name not in clients
                assert all(held.rolename in roles for held in command.roles)
                clients[name] = Client(
                    name, command.clientid or None, command.textdescription, False, command.roles
                )
            case ModifyClient(username=name):
                assert all(held.rolename in roles for held in command.roles)
                disabled = clients[name].disabled
                clients[name] = Client(
                    *(name, command.clientid or None, command.textdescription, disabled, command.roles)
                )
            case DeleteClient(username=name):
                del clients[name]
    return Known(clients, roles)


def known(*accounts: Account) -> Known:
    return carry_out(NOBODY, steps(plan(OURS, NOBODY, accounts)))


def test_a_second_time_there_is_nothing_to_do() -> None:
    first = plan(OURS, NOBODY, EVERYBODY)
    assert set(first.outcome.created) == {"a1", "operator.t1", "operator.t2", "server"}
    assert steps(plan(OURS, known(*EVERYBODY), EVERYBODY)) == ()


def test_who_is_wanted_no_more_goes_with_their_role() -> None:
    done = plan(OURS, known(*EVERYBODY), [SERVER])
    assert set(done.outcome.removed) == {"a1", "operator.t1", "operator.t2"}
    left = carry_out(known(*EVERYBODY), steps(done))
    assert set(left.clients) == {"server"}
    assert "pingup.agent.a1" not in left.roles


def theirs(*accounts: Account) -> Known:
    """A broker that another Pingup uses."""
    return carry_out(NOBODY, steps(plan(THEIRS, NOBODY, accounts)))


def test_another_pingups_accounts_and_their_roles_stay_as_they_are() -> None:
    there = theirs(*EVERYBODY)
    done = plan(OURS, there, [])
    assert steps(done) == ()
    assert done.outcome == Reconciled()


def test_a_name_that_another_pingup_has_is_taken() -> None:
    there = theirs(AGENT)
    done = plan(OURS, there, [account(AGENT.principal, NEW), READER])
    assert [(one.username, one.obstacle) for one in done.outcome.unsettled] == [("a1", Obstacle.NAME_TAKEN)]
    assert done.outcome.created == ("operator.t1",)
    both = carry_out(there, steps(done))
    assert both.clients["a1"] == there.clients["a1"]
    assert carry_out(both, steps(plan(OURS, both, []))) == there


def test_the_same_agent_can_go_from_one_pingup_to_another() -> None:
    empty = carry_out(theirs(AGENT), steps(plan(THEIRS, theirs(AGENT), [])))
    assert carry_out(empty, steps(plan(OURS, empty, [AGENT]))) == known(AGENT)


def test_a_role_goes_with_its_agent_and_not_while_somebody_else_has_it() -> None:
    there = known(AGENT, SERVER)
    there.clients["x"] = Client("x", roles=(HeldRole("pingup.agent.a1"),))
    there.roles["pingup.agent.lost"] = Role("pingup.agent.lost", ())
    done = plan(OURS, there, [SERVER])
    assert done.deletions == (DeleteClient(username="a1"),)


def test_an_agent_and_its_role_are_never_deleted_by_two_requests() -> None:
    agents = [account(Principal(Part.AGENT, f"a{number}")) for number in range(20)]
    done = plan(OURS, known(READER, *agents, ADMIN, SERVER), [])
    for start in range(0, len(done.deletions), COMMANDS_AT_ONCE):
        request = done.deletions[start : start + COMMANDS_AT_ONCE]
        roles = {f"pingup.agent.{one.username}" for one in request if isinstance(one, DeleteClient)}
        assert {one.rolename for one in request if isinstance(one, DeleteRole)} <= roles


def test_who_goes_is_shut_out_before_anything_else_is_done() -> None:
    done = plan(OURS, known(AGENT), [READER])
    first = steps(done)[0]
    assert isinstance(first, ModifyClient)
    assert (first.username, first.password) == ("a1", "a random password")


def test_who_comes_back_before_they_were_gone_gets_their_password_again() -> None:
    halfway = carry_out(known(AGENT), steps(plan(OURS, known(AGENT), []))[:1])
    (command,) = steps(plan(OURS, halfway, [AGENT]))
    assert isinstance(command, ModifyClient)
    assert command.password == "password"


def test_who_is_spared_stays() -> None:
    assert steps(plan(OURS, known(*EVERYBODY), [AGENT, SERVER, READER], ["operator.t2"])) == ()


def test_a_new_password_changes_the_account_and_nothing_else() -> None:
    done = plan(OURS, known(*EVERYBODY), [account(AGENT.principal, NEW), READER, ADMIN, SERVER])
    (command,) = steps(done)
    assert isinstance(command, ModifyClient)
    assert command.password == "password"
    assert done.outcome.changed == ("a1",)


def test_a_role_that_somebody_changed_is_put_right_without_ending_a_connection() -> None:
    there = known(AGENT)
    there.roles["pingup.agent.a1"] = Role("pingup.agent.a1", ())
    (command,) = steps(plan(OURS, there, [AGENT]))
    assert isinstance(command, ModifyRole)
    assert not plan(OURS, there, [AGENT]).outcome.changed


@pytest.mark.parametrize(
    "tampered",
    [
        Client("a1", None, f"pingup {OURS} agent {OLD}"),
        Client("a1", "a1", f"pingup {OURS} agent {OLD}", roles=(HeldRole("admin"),)),
        Client("a1", "server", f"pingup {OURS} agent {OLD}", roles=known(AGENT).clients["a1"].roles),
        Client(
            "a1",
            "a1",
            f"pingup {OURS} agent {OLD}",
            False,
            known(AGENT).clients["a1"].roles,
            (HeldGroup("g"),),
        ),
        Client("a1", "a1", f"pingup {OURS} operator {OLD}", roles=known(AGENT).clients["a1"].roles),
    ],
)
def test_an_account_that_somebody_changed_is_put_right_and_keeps_its_password(tampered: Client) -> None:
    there = known(AGENT)
    there.clients["a1"] = tampered
    (command,) = steps(plan(OURS, there, [AGENT]))
    assert isinstance(command, ModifyClient)
    assert command.password is UNSET
    assert steps(plan(OURS, carry_out(there, (command,)), [AGENT])) == ()


def test_a_password_that_nobody_knows_is_said_and_not_invented() -> None:
    unknown = account(READER.principal, password=None)
    done = plan(OURS, NOBODY, [unknown])
    assert [one.obstacle for one in done.outcome.unsettled] == [Obstacle.PASSWORD_UNKNOWN]
    assert not any(isinstance(command, CreateClient) for command in steps(done))


def test_an_account_that_the_broker_has_needs_no_password() -> None:
    assert steps(plan(OURS, known(READER), [account(READER.principal, password=None)])) == ()


def test_an_account_with_another_password_than_the_unknown_one_goes() -> None:
    done = plan(OURS, known(READER), [account(READER.principal, NEW, None)])
    (shut_out, deletion) = steps(done)
    assert isinstance(shut_out, ModifyClient)
    assert deletion == DeleteClient(username="operator.t1")
    assert done.outcome.removed == ("operator.t1",)
    assert [one.obstacle for one in done.outcome.unsettled] == [Obstacle.PASSWORD_UNKNOWN]


def test_an_account_that_an_administrator_has_disabled_stays_disabled() -> None:
    there = known(AGENT)
    was = there.clients["a1"]
    there.clients["a1"] = Client("a1", was.clientid, was.textdescription, True, was.roles)
    done = plan(OURS, there, [AGENT])
    assert steps(done) == ()
    assert [one.obstacle for one in done.outcome.unsettled] == [Obstacle.DISABLED]


_names = st.sampled_from(["a1", "operator.t1", "operator.t2", "server", "admin", "x"])
_texts = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.sampled_from(
        [
            *(f"pingup {instance} agent {OLD}" for instance in (OURS, THEIRS)),
            *(f"pingup {OURS} operator {NEW}", f"pingup {OURS} agent", f"pingup {OURS} agent {OLD}x"),
            *(f"pingup agent {OLD}", f"pingup server {OURS} {OLD}"),
        ]
    ),
)
_held = st.lists(
    st.sampled_from(["admin", "mine", "pingup.agents", "pingup.agent.x"]).map(HeldRole), max_size=2
).map(tuple)
_clients = st.builds(Client, _names, _names, _texts, st.booleans(), _held)
_roles = st.builds(Role, st.sampled_from(["admin", "mine", "pingup.agents", "pingup.agent.x", "pingup.old"]))
_accounts = st.sampled_from([*EVERYBODY, account(AGENT.principal, NEW), account(READER.principal, NEW, None)])


@given(
    st.lists(_clients, unique_by=lambda one: one.username),
    st.lists(_roles, unique_by=lambda one: one.rolename),
    st.lists(_accounts, unique_by=lambda one: one.username),
)
def test_whatever_a_broker_knows_other_peoples_clients_and_roles_stay_as_they_are(
    clients: list[Client], roles: list[Role], wanted: list[Account]
) -> None:
    done = plan(
        OURS, Known({one.username: one for one in clients}, {one.rolename: one for one in roles}), wanted
    )
    ours = f"pingup {OURS} "
    strangers = {one.username for one in clients if not (one.textdescription or "").startswith(ours)}
    for command in steps(done):
        match command:
            case CreateRole(rolename=name) | ModifyRole(rolename=name):
                assert name.startswith(PREFIX)
            case DeleteRole(rolename=name):
                assert name in {f"pingup.agent.{one.username}" for one in clients}
                assert name not in {
                    held.rolename for one in clients for held in one.roles if one.username in strangers
                }
            case CreateClient(username=name) | ModifyClient(username=name) | DeleteClient(username=name):
                assert name not in strangers
            case _:
                raise AssertionError(command)
    taken = {one.username for one in done.outcome.unsettled if one.obstacle is Obstacle.NAME_TAKEN}
    assert taken >= strangers & {one.username for one in wanted}
