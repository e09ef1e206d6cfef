"""VM documents: what is asked of them is where the disks of those are that do not run.

A VM's template holds the secrets that its context gives it. Only its disks are copied out.
Source: OpenNebula's vm.xsd and vm_pool_extended.xsd, 7.4.
"""

from __future__ import annotations

from nebfs.model import MachineDisk, MachineState, VirtualMachine
from nebfs.opennebula.document import Node, objects

_MOST_DISKS = 256
"""More than any hypervisor takes; the number of a disk is a part of a file's name."""


def decode_machines(document: str) -> tuple[VirtualMachine, ...]:
    """Read a VM_POOL (extended) or a single VM, by ascending id. Raises MalformedDocument."""
    found = (_machine(node) for node in objects(document, "VM"))
    return tuple(sorted(found, key=lambda machine: machine.id))


def _machine(node: Node) -> VirtualMachine:
    records = node.node("HISTORY_RECORDS")
    history = list(records.nodes("HISTORY")) if records is not None else []
    last = max(history, key=lambda record: record.number("SEQ", -1), default=None)
    return VirtualMachine(
        **node.identity(),
        state=MachineState(node.number("STATE", -1)),
        datastore_id=-1 if last is None else last.number("DS_ID", -1),
        transfer="" if last is None else last.text("TM_MAD"),
        host="" if last is None else last.text("HOSTNAME"),
        disks=_disks(node.node("TEMPLATE")),
    )


def _disks(template: Node | None) -> tuple[MachineDisk, ...]:
    """Return a VM's disks by ascending id; the disk with its context is one of them."""
    if template is None:
        return ()
    found: dict[int, MachineDisk] = {}
    for disk in template.nodes("DISK"):
        number = disk.number("DISK_ID", -1)
        found.setdefault(
            number,
            MachineDisk(
                number,
                type=disk.text("TYPE") or disk.text("DISK_TYPE"),
                format=disk.text("FORMAT") or disk.text("DRIVER"),
                image_id=disk.number("IMAGE_ID", -1),
                source=disk.text("SOURCE"),
                size_mb=disk.number("SIZE"),
            ),
        )
    context = template.node("CONTEXT")
    if context is not None and "DISK_ID" in context:
        number = context.number("DISK_ID", -1)
        found.setdefault(number, MachineDisk(number, type="CDROM", format="raw"))
    return tuple(found[number] for number in sorted(found) if 0 <= number < _MOST_DISKS)
