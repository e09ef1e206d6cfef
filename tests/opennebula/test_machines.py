"""VMs at rest: what is read of their documents, and how they are asked for."""

from __future__ import annotations

import xmlrpc.client
from pathlib import Path

import pytest

from nebfs.fetcher.messages import CallAnswer
from nebfs.model import MachineState
from nebfs.opennebula import MalformedDocument, decode_machines

FRAGMENT = (Path(__file__).parents[1] / "fixtures/datastores/vm_33_fragment.xml").read_text()


def test_a_vm_s_disks_and_where_it_was_last():
    (machine,) = decode_machines(FRAGMENT)
    assert (machine.id, machine.name, machine.uname) == (33, "db", "alice")
    assert machine.state is MachineState.POWEROFF
    assert (machine.datastore_id, machine.transfer, machine.host) == (0, "local", "node1")
    data, context, scratch = machine.disks
    assert (data.id, data.image_id, data.format, data.type) == (0, 6, "qcow2", "FILE")
    assert data.source == "/var/lib/one//datastores/1/8ff34785799e5cc59082c363445c09d4"
    assert (context.id, context.type) == (1, "CDROM")
    assert (scratch.id, scratch.type, scratch.size_mb) == (2, "fs", 1024)


def vm(number=1, state=8, *, template="", history="", name="vm"):
    return (
        f"<VM><ID>{number}</ID><NAME>{name}</NAME><STATE>{state}</STATE>"
        f"<TEMPLATE>{template}</TEMPLATE>"
        f"<HISTORY_RECORDS>{history}</HISTORY_RECORDS></VM>"
    )


def record(seq, store):
    return f"<HISTORY><SEQ>{seq}</SEQ><DS_ID>{store}</DS_ID><TM_MAD>ssh</TM_MAD></HISTORY>"


def test_the_last_record_counts_whatever_their_order():
    pool = vm(2, history=record(1, 101) + record(3, 103) + record(2, 102)) + vm(1)
    first, second = decode_machines(f"<VM_POOL>{pool}</VM_POOL>")
    assert (first.id, first.datastore_id, first.transfer) == (1, -1, "")
    assert (second.id, second.datastore_id) == (2, 103)


def test_damaged_numbers_of_disks_are_left_out():
    disks = "".join(f"<DISK><DISK_ID>{n}</DISK_ID></DISK>" for n in (3, 3, -1, "x", 10**9, 0))
    (machine,) = decode_machines(vm(template=disks + "<DISK/>"))
    assert [disk.id for disk in machine.disks] == [0, 3]
    assert decode_machines("<VM_POOL/>") == ()
    assert decode_machines("<VM><ID>4</ID></VM>")[0].disks == ()
    with pytest.raises(MalformedDocument):
        decode_machines("<IMAGE_POOL/>")


def test_secrets_of_a_context_are_not_copied():
    context = "<CONTEXT><DISK_ID>1</DISK_ID><PASSWORD>canary</PASSWORD></CONTEXT>"
    (machine,) = decode_machines(vm(template=context))
    assert "canary" not in repr(machine)


class Pool:
    """Answers for VMs; `old` knows only the plain list, `poisonous` ids cannot be sent."""

    def __init__(self, kit, *machines, old=False, poisonous=()):
        self.kit, self.machines, self.old, self.bad = kit, machines, old, poisonous
        self.calls = []

    async def __call__(self, request):
        (_, *params), method = xmlrpc.client.loads(request.body)
        self.calls.append((method, *params))
        if method != "one.vmpool.infoextended" and not self.old:
            raise AssertionError(method)
        if method == "one.vmpool.infoextended" and self.old:
            return CallAnswer(200, (), self.kit.fault(-506, f"Method '{method}' not defined"))
        flag, start, end, state = params
        assert flag == -2

        def wanted(number):
            return number >= start and (end == -1 or number <= end)

        if any(wanted(number) for number in self.bad):
            return CallAnswer(200, (), self.kit.fault(-500, "cut off"))
        found = [vm(n, s) for n, s in self.machines if s == state and wanted(n)]
        return CallAnswer(200, (), self.kit.success(f"<VM_POOL>{''.join(found)}</VM_POOL>"))


@pytest.mark.parametrize("old", [False, True])
async def test_only_vms_at_rest_are_asked_for(kit, old):
    pool = Pool(kit, (5, 8), (4, 9), (7, 4), (1, 3), (2, 5), old=old)
    front_end = kit.front_end(pool, "alice", "x")
    machines = await front_end.machines()
    assert [(m.id, m.state.name) for m in machines] == [
        (4, "UNDEPLOYED"),
        (5, "POWEROFF"),
        (7, "STOPPED"),
    ]
    assert {call[-1] for call in pool.calls} == {4, 8, 9}


async def test_a_vm_that_cannot_be_sent_takes_none_of_the_others_along(kit):
    pool = Pool(kit, (5, 8), (9, 8), poisonous=(7,))
    assert [m.id for m in await kit.front_end(pool, "alice", "x").machines()] == [5, 9]
